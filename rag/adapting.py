"""What retrievers, embedders and readers of frameworks have in common: what they open, name and refuse.

Knows no framework.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Generic, Self, TypeVar

from ..core.errors import BadInput
from .hits import Hit

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Opened(Generic[K, V]):
    """What is opened at its first use: once, however many threads ask at the same time.

    A copy of the object that holds this shares all that is open; a pickle holds nothing of it, and opens its own.
    """

    def __init__(self, values: Mapping[K, V] | None = None) -> None:
        self._values = dict(values or {})
        self._lock = Lock()

    def get(self, key: K, open: Callable[[], V]) -> V:
        """The value of `key`, which `open` gives where there is none yet."""
        if key not in self._values:
            with self._lock:
                if key not in self._values:
                    self._values[key] = open()
        return self._values[key]

    def __eq__(self, other: object) -> bool:
        """What is open already makes no difference between objects that are alike otherwise."""
        return isinstance(other, Opened)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> Any:
        return type(self), ()


def stable_id(*parts: str | int | None) -> str:
    """A UUID that is the same for the same parts, in every process."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"hanpaca {json.dumps(parts)}"))


def id_of_passage(library: Path, hit: Hit) -> str:
    """The passage's id among those of all libraries (`passage_id` counts within one)."""
    return stable_id(str(library), hit.file, hit.start, hit.end)


def texts_of(given: Iterable[str]) -> list[str]:
    """Texts as a list. Raises `BadInput` for a single one, whose letters would be taken for texts, and for anything
    else."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise BadInput(f"Several texts are wanted, not one {type(given).__name__}.", "Give a list: [text].")
    texts = list(given)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadInput(f"Text {number} is of type {type(text).__name__}.", "Give str only.")
    return texts
