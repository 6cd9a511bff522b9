"""What lies at and below the paths that a user names. Knows file names and no library."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import BadInput
from .paths import absolute, shown
from .readers import is_readable


@dataclass
class Found:
    """What lies at and below some paths."""

    files: dict[str, os.stat_result] = field(default_factory=dict)
    """Absolute path → stat of every file of a type that is read, sorted."""
    skipped: list[str] = field(default_factory=list)
    """Files of other types."""
    closed: list[tuple[str, str]] = field(default_factory=list)
    """(folder, why it cannot be looked into)."""
    links: list[str] = field(default_factory=list)
    """Links to folders, which are not followed."""


def check_paths(paths: Sequence[Path | str]) -> list[Path]:
    """The paths, absolute. Raises `BadInput` for one that does not exist, and for a pipe or a device."""
    if isinstance(paths, str | Path):
        raise BadInput(f"Several paths are wanted, not one {type(paths).__name__}.", "Give a list: [path].")
    if not paths:
        raise BadInput("There is no path to read.", "Name a file or a folder.")
    found = [Path(absolute(path)) for path in paths]
    for path in found:
        if not path.exists():
            raise BadInput(f"There is no file or folder {path}.", "Check the path; nothing was changed.")
        if not (path.is_dir() or path.is_file()):
            raise BadInput(f"{path} is neither a file nor a folder.", "Save its text as a file; nothing was changed.")
    return found


def find_files(paths: Sequence[Path | str]) -> Found:
    """Every file at or below `paths`; hidden files and folders are left out, links to folders not followed.

    A file that is named itself is taken whatever its type, so that its error can be told. Raises `BadInput`
    as `check_paths` does.
    """
    found = Found()
    for path in check_paths(paths):
        for name in [path] if not path.is_dir() else _below(path, found):
            with contextlib.suppress(FileNotFoundError):  # it went away since the folder was listed
                found.files[str(name)] = name.stat()
    found.files = dict(sorted(found.files.items()))
    found.skipped = sorted(set(found.skipped))
    found.links = sorted(set(found.links) - {absolute(path) for path in paths})
    return found


def _below(folder: Path, found: Found) -> Iterator[Path]:
    """The files to read; what is left out goes into `found`."""

    def is_closed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            found.closed.append((shown(str(error.filename)), message_of(error)))

    for place, folders, names in os.walk(folder, onerror=is_closed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found.links += [str(path) for name in folders if (path := Path(place, name)).is_symlink()]
        for name in names:
            path = Path(place, name)
            if name.startswith((".", "~$")) or not path.is_file():
                continue
            if is_readable(path):
                yield path
            else:
                found.skipped.append(shown(str(path)))


def message_of(error: Exception) -> str:
    """What a report says of an error."""
    if isinstance(error, OSError):
        return f"It cannot be read: {error.strerror or error}."
    return str(error)
