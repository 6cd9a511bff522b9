"""A whole library in one file, and back. Chroma's index is left out: it is built anew from the library's own vectors.

The file is a zip with the database as SQLite wrote it; making one does not stop readers or another writer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..core.errors import BadInput, HanpacaError
from .library import DATABASE, Library
from .store import is_full

FORMAT = "hanpaca-library-1"
WORKSHOP = ".hanpaca-backup-"
_NOT_YET_LOCKED = 10.0
"""Seconds for which a workshop may be without its lock: another process is just making it."""
MOST_BYTES = 1 << 40
"""A backup that says it holds more is no backup."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, UnicodeDecodeError, sqlite3.DatabaseError)
"""What reading a file that is no backup, or not a whole one, raises."""


def backup(library: Library, target: Path | str) -> Path:
    """Write the library to one file, replacing an older backup only when the new one is whole.

    Raises `BadInput` for a folder, for a file that is no backup, and for a place in the library's own folder.
    """
    target = Path(target)
    with _explained(f"No backup is written to {target}"):
        place = Path(os.path.realpath(target))  # a link stays, and leads to the new one
        _refuse_what_would_be_lost(library, target)
        place.parent.mkdir(parents=True, exist_ok=True)
        with _workshop(place) as folder:
            copy, new = folder / DATABASE, folder / "new.zip"
            with contextlib.closing(sqlite3.connect(copy)) as writing:
                library.store.back_up(writing)
                writing.execute("PRAGMA journal_mode = DELETE")
            with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
                archive.writestr("format", FORMAT)
                archive.write(copy, DATABASE)
            new.replace(place)
    return target


@contextlib.contextmanager
def _workshop(target: Path) -> Iterator[Path]:
    """A folder beside `target` for what becomes it, locked, and gone afterwards with those that killed runs left."""
    import filelock

    folder = Path(tempfile.mkdtemp(prefix=WORKSHOP, dir=target.parent))
    try:
        with filelock.FileLock(folder / "lock"):
            for other in target.parent.glob(f"{WORKSHOP}*"):
                with contextlib.suppress(OSError, filelock.Timeout):
                    if time.time() - other.stat().st_mtime > _NOT_YET_LOCKED:
                        with filelock.FileLock(other / "lock", timeout=0):
                            shutil.rmtree(other)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_what_would_be_lost(library: Library, target: Path) -> None:
    if target.is_dir():
        raise BadInput(f"{target} is a folder.", f"Give the name of a file, such as {target / 'library.zip'}.")
    if any(place.exists() and place.samefile(library.folder) for place in Path(os.path.realpath(target)).parents):
        raise BadInput(f"{target} lies in the library's own folder.", "Write the backup to another folder.")
    if target.exists() and not _is_backup(target):
        raise BadInput(
            f"{target} is there already and is no backup of a library.", "Choose another name, or delete it first."
        )


def _is_backup(file: Path) -> bool:
    if not file.is_file():  # a device or a pipe, which reading would wait for
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return _format(archive) == FORMAT
    except _DAMAGED:
        return False


def _format(archive: zipfile.ZipFile) -> str:
    with archive.open("format") as packed:
        return packed.read(len(FORMAT) + 1).decode()


def restore(source: Path | str, folder: Path | str) -> None:
    """Make a library in `folder` from a backup. Raises `BadInput` if there is one already, or the file is no backup."""
    source, folder = Path(source), Path(folder)
    _refuse_a_library(folder)
    if not source.is_file():
        raise BadInput(f"There is no file {source}.", "Check the path.")
    with _explained(f"No library is made in {folder}"), _made(folder), _workshop(folder / DATABASE) as place:
        _unpack(source, place / DATABASE)
        _refuse_a_library(folder)  # another process may have been faster
        (place / DATABASE).replace(folder / DATABASE)


def _refuse_a_library(folder: Path) -> None:
    if (folder / DATABASE).exists():
        raise BadInput(f"There is a library in {folder} already.", "Restore into another folder, or delete it first.")


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder, made with those above it; where what follows fails, none is left that was not there before."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in new:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def _unpack(source: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            if _format(archive) != FORMAT or archive.getinfo(DATABASE).file_size > MOST_BYTES:
                raise KeyError("format")
            with archive.open(DATABASE) as packed, target.open("wb") as unpacked:
                while block := packed.read(1 << 20):
                    unpacked.write(block)
        with contextlib.closing(sqlite3.connect(target)) as connection:
            if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise KeyError("damaged")
            connection.execute("PRAGMA journal_mode = WAL")
            # Its vectors belong to a Chroma index of its own, not to that of the library it was made from.
            connection.execute("UPDATE meta SET value = lower(hex(randomblob(16))) WHERE key = 'identity'")
            connection.commit()
    except _DAMAGED as error:
        raise BadInput(
            f"{source} is not a whole backup of a library.", "Use a file that `hanpaca backup` made."
        ) from error


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """The disk's errors, in words for the user; `what` says what they prevented."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if is_full(error):
            raise HanpacaError(f"{what}: {reason}.", "Free some space, or choose another place.") from error
        raise BadInput(f"{what}: {reason}.", "Choose another place, or change its permissions.") from error
