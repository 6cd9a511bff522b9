"""Search in a part of a library: by file, folder, type and date. Knows only the store's tables."""

from __future__ import annotations

import datetime
import fnmatch
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any, Self

from ..core.errors import BadInput
from .paths import absolute, ends_with, is_below
from .store import placeholders


@dataclass(frozen=True)
class Filters:
    """What a file must be for its passages to be searched. Empty fields allow everything."""

    files: tuple[str, ...] = ()
    """Names, ends of paths, or patterns with * and ?."""
    folders: tuple[str, ...] = ()
    """Everything below any of these."""
    kinds: tuple[str, ...] = ()
    """pdf, markdown, html, text, … or endings of names: htm, .DOCX."""
    after: datetime.date | None = None
    """Files changed on this day or later, in local time."""
    before: datetime.date | None = None
    """Files changed earlier than this day."""

    def __post_init__(self) -> None:
        for name in ("files", "folders", "kinds"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        object.__setattr__(self, "kinds", tuple(kind.lower().lstrip(".") for kind in self.kinds))
        for name in ("after", "before"):
            object.__setattr__(self, name, _date(name, getattr(self, name)))

    @classmethod
    def of(cls, given: Filters | Mapping[str, Any] | None) -> Self | Filters:
        """From a mapping such as a request's JSON. Raises `BadInput` for unknown names, listing the valid ones."""
        if isinstance(given, Filters):
            return given
        valid = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping | None):
            raise BadInput(f"filters are a mapping, not {given!r}.", f"Valid in it: {', '.join(valid)}.")
        for name in given or {}:
            if name not in valid:
                raise BadInput(f"{name!r} is not a filter.", f"Valid: {', '.join(valid)}.")
        return cls(**dict(given or {}))

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def passages(self, reading: sqlite3.Connection) -> list[int]:
        """The passages of the files that fit. Raises `BadInput` if no file does."""
        rows = reading.execute("SELECT id, path, kind, modified FROM files")
        chosen = [number for number, path, kind, modified in rows if self._fits(path, kind, modified / 1e9)]
        if not chosen:
            raise BadInput("No file of the library passes the filter.", "`hanpaca sources` lists the files it has.")
        return [
            row[0]
            for at in range(0, len(chosen), 10_000)
            for row in reading.execute(
                f"SELECT id FROM passages WHERE file IN ({placeholders(chosen[at : at + 10_000])}) ORDER BY id",
                chosen[at : at + 10_000],
            )
        ]

    def _fits(self, path: str, kind: str, modified: float) -> bool:
        if self.files and not any(_is_named(path, name) for name in self.files):
            return False
        if self.folders and not any(_is_below(path, folder) for folder in self.folders):
            return False
        if self.kinds and not {kind, PurePath(path).suffix.lstrip(".").lower()} & set(self.kinds):
            return False
        day = datetime.date.fromtimestamp(modified)
        return (self.after is None or day >= self.after) and (self.before is None or day < self.before)


def _names(filter: str, given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    names = (given,) if isinstance(given, str | PurePath) else given
    if not isinstance(names, Iterable) or not all(isinstance(name, str | PurePath) for name in names):
        raise BadInput(f"{filter} are texts, not {given!r}.", f'Such as {{"{filter}": ["…"]}}.')
    return tuple(map(str, names))


def _is_named(path: str, name: str) -> bool:
    if path == absolute(name) or ends_with(path, name):
        return True
    return fnmatch.fnmatch(path, name) or fnmatch.fnmatch(PurePath(path).name, name)


def _is_below(path: str, folder: str) -> bool:
    plain = folder.rstrip("/\\")
    return is_below(path, folder) or path.startswith((plain + "/", plain + "\\"))


def _date(name: str, value: Any) -> datetime.date | None:
    if value is None or (isinstance(value, datetime.date) and not isinstance(value, datetime.datetime)):
        return value
    if isinstance(value, datetime.datetime):
        return value.date()
    try:
        return datetime.date.fromisoformat(str(value))
    except ValueError as error:
        raise BadInput(f"{name} is a date, not {value!r}.", "Write it as 2026-01-31.") from error
