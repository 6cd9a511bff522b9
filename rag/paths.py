"""Paths as a library remembers them. Knows the file system's names and nothing in the files."""

from __future__ import annotations

import os
from pathlib import Path


def absolute(path: Path | str) -> str:
    """The whole path, without `..`, symbolic links kept as the user wrote them."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow the links


def is_below(path: str, folder: Path | str) -> bool:
    """Whether a path lies in a folder (however deep), or is it."""
    top = absolute(folder)
    return path == top or path.startswith(top.rstrip(os.sep) + os.sep)


def ends_with(path: str, name: str) -> bool:
    """Whether `name` is the path's last part or parts; both kinds of slashes separate.

    >>> ends_with("/me/docs/a.txt", "docs/a.txt"), ends_with("docs\\\\a.txt", "a.txt"), ends_with("aa.txt", "a.txt")
    (True, True, False)
    """
    return path == name or path.endswith(("/" + name, "\\" + name))
