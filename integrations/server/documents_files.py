"""Uploaded files on disk, under names of our own. Knows no library and no HTTP.

    uploads/ID.pdf     the file as it came
    uploads/ID.json    its name for people and, once it has failed, why

A file is renamed into place when it is whole, so a crash leaves either nothing or something that the next run reads.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ...core.errors import BadInput
from ...rag.readers import is_readable
from ...rag.uploads import UPLOAD_ID, clean_name


def shown_name(name: str | None) -> str:
    """What people will see of an upload's name. Raises `BadInput` for a type that cannot be read."""
    shown = clean_name(name)
    if not is_readable(Path(shown)):
        raise BadInput(
            f"{shown[-60:]!r} is of a type that cannot be read.", "Text, Markdown, HTML, PDF, Office, EPUB … can."
        )
    return shown


class KeptFiles:
    """The folder of a library's uploads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, id: str, name: str) -> Path:
        """Where the upload with this id lies that people know as `name`."""
        suffix = PurePosixPath(name).suffix.lower()
        return self._path(id, ".file.json" if suffix == ".json" else suffix)  # `ID.json` is its note

    def add(self, id: str, name: str, file: IO[bytes]) -> tuple[Path, int]:
        """Keep a file: where it lies, and its bytes."""
        target = self.place(id, name)
        self._folder.mkdir(exist_ok=True)
        partial = target.with_name(f".{id}.part")
        try:
            with partial.open("wb") as out:
                shutil.copyfileobj(file, out, 2**20)
            size = partial.stat().st_size
            self.note(id, name=name, file=target.name, size=size, added=time.time())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            self._path(id, ".json").unlink(missing_ok=True)
            raise
        return target, size

    def remove(self, id: str) -> None:
        """Remove an upload and what is noted of it."""
        for path in self._folder.glob(f"{id}.*"):
            path.unlink(missing_ok=True)

    def note(self, id: str, **fields: Any) -> None:
        """Remember something of an upload, beside what is known of it."""
        path = self._path(id, ".json")
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(self._noted(id) | fields, ensure_ascii=False), encoding="utf-8")
        partial.replace(path)

    def all(self) -> Iterator[tuple[str, Path, dict[str, Any]]]:
        """(id, file, what is noted of it) of every upload that is whole."""
        for id in sorted(path.stem for path in self._folder.glob("*.json") if UPLOAD_ID.fullmatch(path.stem)):
            note = self._noted(id)
            file = self._folder / str(note.get("file", ""))
            if file.is_file() and file.name.startswith(f"{id}."):
                yield id, file, note

    def _path(self, id: str, suffix: str) -> Path:
        path = (self._folder / f"{id}{suffix}").resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise BadInput("The name of the upload leads out of the library.", "Give it another name.")
        return path

    def _noted(self, id: str) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            note = json.loads(self._path(id, ".json").read_text(encoding="utf-8"))
            if isinstance(note, dict):
                return note
        return {}
