"""Opens ZIP containers with limits, for archives, Office files and EPUB. Knows nothing of what they hold."""

from __future__ import annotations

import io
import zipfile

from ...core.encodings import decode
from ...core.errors import UnreadableDocument

MAX_TOTAL = 1024 * 1024 * 1024
"""Bytes of all members together, unpacked."""
MAX_MEMBERS = 20_000
MAX_RATIO = 200
"""Unpacked to packed size. XML compresses 30-fold, text 5-fold; a bomb a thousandfold."""
_SMALL = 64 * 1024 * 1024
"""A container that unpacks to less harms nobody, whatever its ratio."""


def open_zip(data: bytes, what: str) -> zipfile.ZipFile:
    """The archive, its declared sizes checked; reading a member never gives more than it declared.

    `what` names the file's type in messages. Raises `UnreadableDocument` for broken archives, bombs, and for Office
    files under a password, which are no ZIP at all.
    """
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise UnreadableDocument(
            f"This {what} is encrypted, or an old binary Office file under a new name.",
            "Open it, remove the password, and save it in today's format.",
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise UnreadableDocument(f"This {what} is broken or cut short.", "Get a whole copy of it.") from error
    total = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    bomb = total > _SMALL and total > MAX_RATIO * max(packed, 1)
    if total > MAX_TOTAL or len(members) > MAX_MEMBERS or bomb:
        raise UnreadableDocument(
            f"This {what} unpacks to {total >> 20} MB in {len(members)} parts, which is over the limit.",
            "Unpack it yourself and add the files you need.",
        )
    return archive


def read_member(archive: zipfile.ZipFile, name: str | zipfile.ZipInfo, what: str) -> bytes:
    """One member's bytes; b"" where there is none of that name."""
    try:
        return archive.read(name)
    except KeyError:
        return b""
    except RuntimeError as error:  # zipfile's word for "needs a password"
        raise UnreadableDocument(f"This {what} is encrypted.", "Save a copy without password.") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError) as error:
        raise UnreadableDocument(f"This {what} is broken or cut short.", "Get a whole copy of it.") from error
    except Exception as error:
        if type(error).__name__ in ("error", "LZMAError"):  # zlib.error and its like
            raise UnreadableDocument(f"This {what} is broken.", "Get a whole copy of it.") from error
        raise


def member_name(info: zipfile.ZipInfo) -> str:
    """A member's name; names without the UTF-8 flag are in the packer's own encoding, often GBK."""
    if info.flag_bits & 0x800:
        return info.filename
    try:
        return decode(info.filename.encode("cp437")).text
    except (UnicodeEncodeError, UnreadableDocument):
        return info.filename
