"""Paths as a library remembers them. Knows the file system's names and nothing in the files."""

from __future__ import annotations

import os
from pathlib import Path, PurePath


def absolute(path: Path | str) -> str:
    """The whole path, without `..`, symbolic links kept as the user wrote them."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow the links


def shown(path: str) -> str:
    """A path that can be printed, whatever its name's encoding."""
    return path.encode("utf-8", "backslashreplace").decode()


def printable(path: str) -> str:
    """A path on one line: line ends and the like escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in path)


def is_below(path: str, folder: Path | str) -> bool:
    """Whether a path lies in a folder (however deep), or is it."""
    top = absolute(folder)
    return path == top or path.startswith(top.rstrip(os.sep) + os.sep)


_PAGES = {".pptx": "slide", ".xlsx": "sheet"}


def place_of(file: str, member: str | None, page: str | None, line: int) -> str:
    """Where in a file something stands, as a person looks it up; `member` is the file's name within an archive.

    >>> place_of("a.txt", None, None, 3), place_of("b.zip", "d/a.pdf", "2", 9), place_of("c.xlsx", None, "工资", 9)
    ('line 3', 'd/a.pdf, page 2', 'sheet 工资')
    """
    unit = _PAGES.get(PurePath(member or file).suffix.lower(), "page")
    place = f"{unit} {page}" if page else f"line {line}"
    return f"{member}, {place}" if member else place


def ends_with(path: str, name: str) -> bool:
    """Whether `name` is the path's last part or parts; both kinds of slashes separate.

    >>> ends_with("/me/docs/a.txt", "docs/a.txt"), ends_with("docs\\\\a.txt", "a.txt"), ends_with("aa.txt", "a.txt")
    (True, True, False)
    """
    return path == name or path.endswith(("/" + name, "\\" + name))
