"""Files that are put into somebody else's folder: written whole, remembered by their digests, taken back where the disk
fails. Knows no host.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ...core.errors import BadInput

MANIFEST = ".installed.json"
"""In the extension's folder: the names of the files that we wrote, each with its SHA-256."""


def name_of(path: Path) -> str:
    """What the manifest calls a file: its name and its folder's."""
    return f"{path.parent.name}/{path.name}"


def written(folder: Path) -> dict[str, str]:
    """Name → digest of what we wrote; empty where nobody knows."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(folder: Path, digests: Mapping[str, str]) -> None:
    """Write the manifest."""
    write_whole(folder / MANIFEST, json.dumps(digests, indent=1).encode("ascii"))


def digest(path: Path) -> str:
    """SHA-256 in hexadecimal; of what is no file, nothing."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def same(ours: Path, there: Path) -> bool:
    """Whether a file is there and holds the same."""
    try:
        return ours.read_bytes() == there.read_bytes()
    except OSError:
        return False


@contextlib.contextmanager
def disk_errors_told(new: Sequence[Path]) -> Iterator[None]:
    """Errors of the disk as `BadInput` that says what to do; files and folders that were `new` are taken back."""
    try:
        yield
    except OSError as error:
        for path in reversed(new):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        place = error.filename or "The web UI's folder"
        raise BadInput(
            f"{place}: {error.strerror or error}.",
            "See that you may write there and that the disk has room, then give the command again.",
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole. A link stays a link, and a file keeps who may read it."""
    path = path.resolve()
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.touch(0o600)
        partial.write_bytes(data)
        partial.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644)
        os.replace(partial, path)  # noqa: PTH105 - as Path.replace
    finally:
        partial.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the folder if nothing but Python's own cache is left in it."""
    cache = folder / "__pycache__"
    if folder.is_symlink() or not folder.is_dir() or any(path != cache for path in folder.iterdir()):
        return
    if cache.is_dir():
        for path in cache.iterdir():
            path.unlink()
        cache.rmdir()
    folder.rmdir()
