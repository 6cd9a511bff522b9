"""Libraries by name, in one folder: any Unicode name, on any file system.

Knows only names and folders; `library.py` knows what is in them.
"""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote

from ..core.errors import BadInput
from .library import DATABASE

DEFAULT = "default"
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|%]|^\.|[. ]$|^ ')
_RESERVED = re.compile(r"(?i)^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")
_LONGEST = 200
"""Bytes of a folder's name; file systems allow 255."""


def libraries_folder() -> Path:
    """Where named libraries live: `HANPACA_LIBRARIES`, or the user's data folder."""
    if given := os.environ.get("HANPACA_LIBRARIES"):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_data_dir("hanpaca", appauthor=False)) / "libraries"


def library_folder(name: str = DEFAULT, root: Path | None = None) -> Path:
    """The folder of the library of this name; it need not exist yet.

    >>> library_folder("法律/合同", Path("L")).name, library_folder("..", Path("L")).name
    ('法律%2F合同', '%2E%2E')
    """
    plain = unicodedata.normalize("NFC", name).strip()
    if not plain:
        raise BadInput("The name of a library is empty.", "Give one, in any language.")
    try:
        plain.encode()
    except UnicodeEncodeError as error:
        raise BadInput("The name of a library is not valid text.", "Give one, in any language.") from error
    safe = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found.group().encode()), plain)
    if _RESERVED.match(safe):
        safe = f"%{ord(safe[0]):02X}{safe[1:]}"
    if len(safe.encode()) > _LONGEST:
        raise BadInput(f"The name {plain[:20]}… is too long.", "About sixty Chinese characters are the most.")
    return (root or libraries_folder()) / safe


def library_names(root: Path | None = None) -> list[str]:
    """The names of the libraries that exist, sorted."""
    folder = root or libraries_folder()
    if not folder.is_dir():
        return []
    return sorted(unquote(path.name) for path in folder.iterdir() if (path / DATABASE).is_file())
