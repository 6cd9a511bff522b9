"""Delete a whole library: its files, its uploads, and what a Chroma server holds of it.

Only what libraries write is deleted: a folder that holds something else keeps it. The database goes last, so that a
run that was cut short leaves a library that can be deleted again. Knows no HTTP and no terminal.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..core.errors import BadInput, LibraryBusy
from .backup import WORKSHOP
from .chroma_index import ChromaIndex
from .library import DATABASE, LOCK_SECONDS
from .paths import absolute
from .store import Store, explain
from .uploads import FOLDER

CHROMA, WRITE_LOCK = "chroma", "write.lock"
_FILES = (f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", DATABASE, WRITE_LOCK)
"""In the order in which they go: the log holds text too, and would stay if the database went first."""


def remove_library(folder: Path | str) -> None:
    """Delete the library in `folder`; files that it read elsewhere stay where they lie. It must not be open here.

    Raises `BadInput` where there is none, `LibraryBusy` where another process uses it, and `EngineUnavailable` where
    its Chroma server does not answer; then nothing is deleted.
    """
    folder = Path(absolute(folder))
    if not (folder / DATABASE).is_file():
        raise BadInput(f"There is no library in {folder}.", "Check the name.")
    try:
        with _alone(folder):
            _forget_on_server(folder)
            for part in (FOLDER, CHROMA, *(place.name for place in folder.glob(f"{WORKSHOP}*"))):
                _remove_folder(folder / part)
            for name in _FILES[:-1]:
                (folder / name).unlink(missing_ok=True)
        (folder / WRITE_LOCK).unlink(missing_ok=True)
    except OSError as error:
        raise explain(error, folder / DATABASE) from error
    with contextlib.suppress(OSError):  # it holds something that is not ours
        folder.rmdir()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Both locks of a library: the writer's, and that of the one who has Chroma's folder open."""
    import filelock

    with contextlib.ExitStack() as held:
        locks = [folder / WRITE_LOCK, *([folder / CHROMA / "lock"] if (folder / CHROMA).is_dir() else [])]
        for lock in locks:
            try:
                held.enter_context(filelock.FileLock(lock, timeout=LOCK_SECONDS))
            except filelock.Timeout as error:
                raise LibraryBusy(
                    f"Another process uses the library in {folder}.",
                    "Wait until it has finished, or stop the server that has it open.",
                ) from error
        yield


def _forget_on_server(folder: Path) -> None:
    try:
        store = Store(folder / DATABASE, create=False)
    except BadInput:  # it cannot be read any more, and so nobody knows of a server
        return
    with contextlib.closing(store):
        if server := store.meta(CHROMA):
            ChromaIndex(store, folder, server).forget()


def _remove_folder(path: Path) -> None:
    """Without following a link: what it leads to is not ours."""
    if path.is_symlink():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
