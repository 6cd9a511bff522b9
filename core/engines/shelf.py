"""Finished sequences kept in host memory, so that idle cells do not slow down those that decode.

Attention looks at every cell in use: with 8,000 idle cells a small model decodes a quarter slower (measured in
`tests/benchmarks/LOG.md`). Copying a sequence's keys and values out and back takes milliseconds. Knows no decoder:
a state is anything with a size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .jobs import common_prefix


@dataclass(frozen=True, eq=False)
class Shelved:
    """One sequence: its tokens, and their keys and values as the decoder saved them, in pieces."""

    tokens: list[int]
    state: Any
    size: int


class Shelf:
    """Sequences within a budget of bytes, the least recently used leaving first.

    >>> shelf = Shelf(10)
    >>> shelf.put([1, 2, 3], "state", 6)
    >>> shelf.best([1, 2, 9], 8)[1], shelf.best([4], 8)[1]
    (2, 0)
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._entries: list[Shelved] = []  # least recently used first

    def put(self, tokens: Sequence[int], state: Any, size: int) -> None:
        """Keep a sequence, in place of those that it begins with. One over the whole budget is not kept."""
        if size > self.budget:
            return
        for entry in list(self._entries):
            if common_prefix(entry.tokens, tokens, len(entry.tokens)) == len(entry.tokens):
                self.drop(entry)
        while self.used + size > self.budget:
            self.drop(self._entries[0])
        self._entries.append(Shelved(list(tokens), state, size))
        self.used += size

    def best(self, tokens: Sequence[int], limit: int) -> tuple[Shelved | None, int]:
        """The entry with the longest common prefix, at most `limit`, and that length."""
        best, longest = None, 0
        for entry in self._entries:
            length = common_prefix(tokens, entry.tokens, limit)
            if length > longest:
                best, longest = entry, length
        return best, longest

    def touch(self, entry: Shelved) -> None:
        """Mark an entry as used now."""
        self._entries.remove(entry)
        self._entries.append(entry)

    def drop(self, entry: Shelved) -> None:
        """Keep a sequence no longer."""
        self._entries.remove(entry)
        self.used -= entry.size
