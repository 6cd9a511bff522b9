"""How uploaded documents are called: by people, and in a library. Knows names only.

In a library an upload is uploads/ID/NAME, whoever took it in: the server and the web UI read each other's libraries.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata

FOLDER = "uploads"
UPLOAD_ID = re.compile(r"[0-9a-f]{16}")
_NAME_BYTES = 200


def clean_name(name: str | None) -> str:
    """A name for people, of one line and without folders.

    >>> clean_name("../../etc/passwd.txt"), clean_name("C:\\\\me\\\\报告.pdf"), clean_name(None)
    ('passwd.txt', '报告.pdf', 'document')
    """
    last = re.split(r"[/\\]", name or "")[-1]
    plain = unicodedata.normalize("NFC", last.encode("utf-8", "ignore").decode("utf-8"))
    shown = "".join(char for char in plain if char.isprintable()).strip().lstrip(".")
    stem, suffix = os.path.splitext(shown)  # noqa: PTH122 - a name, not a path
    stem = stem.encode()[: _NAME_BYTES - len(suffix.encode()[:20])].decode("utf-8", "ignore")
    return (stem + suffix)[:_NAME_BYTES] or "document"


def document_path(id: str, name: str) -> str:
    """What a library calls the upload of this id (16 hexadecimal digits) and name."""
    return f"{FOLDER}/{id}/{name}"


def document_id(path: str) -> str:
    """The id of a document of a library: its own for an upload, else one made of its path."""
    parts = path.split("/")
    if len(parts) == 3 and parts[0] == FOLDER and UPLOAD_ID.fullmatch(parts[1]):
        return parts[1]
    return "file-" + hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def document_name(path: str) -> str:
    """What people call it: the upload's name, else the path."""
    return path if document_id(path).startswith("file-") else path.split("/")[2]
