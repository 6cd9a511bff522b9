"""Writing model files so that nothing half-made is ever taken for whole. Knows no formats."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import BadInput

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) now and then, from the thread that does the work."""


def gib(nbytes: float) -> str:
    """`nbytes` for people.

    >>> gib(13_860_294_080), gib(5_000_000)
    ('12.91 GiB', '4.8 MiB')
    """
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**29 else f"{nbytes / 2**20:.1f} MiB"


def need_space(folder: Path, nbytes: int) -> None:
    """Raise `BadInput` unless the disk of `folder` (or of its nearest existing parent) has `nbytes` free."""
    where = folder.absolute()
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    if free < nbytes:
        raise BadInput(
            f"Not enough disk space: {gib(nbytes)} are needed and {where} has {gib(free)} free.",
            "Free some space, or write to another disk.",
        )


def not_among(out: Path, *inputs: Path) -> None:
    """Raise `BadInput` where `out` is one of the files that are read for it."""
    for given in inputs:
        if out.exists() and given.exists() and out.samefile(given):
            raise BadInput(f"{out} is what is read here; it would be lost.", "Name another file to write.")


def only_replaces(out: Path, beginning: bytes, what: str) -> None:
    """Raise `BadInput` where there is a file `out` that does not begin like what is written: it is something else."""
    if out.is_file() and out.stat().st_size:
        with out.open("rb") as stream:
            if stream.read(len(beginning)) != beginning:
                raise BadInput(f"{out} exists and is no {what}.", "Name another file to write, or remove it first.")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well and removed when it does not.

    The name holds the process and thread ids, ends in `.partial`, and is never taken for a model. An existing `path` is
    replaced.
    """
    if path.is_dir():
        raise BadInput(f"{path} is a folder.", "Name the file to write.")
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} is no ordinary file but a device or a pipe.", "Name the file to write.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        yield partial
        _to_disk(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Like `new_file` for a folder, which must not exist yet or be empty.

    `shared`: whoever writes it writes the same, as in a cache; where another one was done first, that folder stays.
    """
    path = free(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _to_disk(file)
        try:
            partial.replace(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not shared:
                raise _taken(path) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def free(path: Path) -> Path:
    """Where a new folder will be, links followed. Raises `BadInput` where there is something already."""
    path = Path(os.path.realpath(path))
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise _taken(path)
    if path == Path.cwd():
        raise BadInput(f"{path} is the folder that this command runs in.", "Name a new folder in it.")
    return path


def _taken(path: Path) -> BadInput:
    return BadInput(f"{path} exists already.", "Name a new folder, or remove that one first.")


def _to_disk(file: Path) -> None:
    """Wait until the numbers are on the disk: a power cut after the renaming must not leave a whole file of nothing."""
    if file.is_file():
        with file.open("rb") as written:
            os.fsync(written.fileno())
