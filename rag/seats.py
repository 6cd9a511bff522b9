"""Fills the places of a result: each text once, though several passages may say it. Knows folded texts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import add

SAME_TEXT = 0.85
"""Two passages that share this much of their character pairs are one to a reader."""


class Seats:
    """Takes passages in turn, each text once."""

    def __init__(self, folded: Mapping[int, str], merge: bool) -> None:
        self.taken: list[int] = []
        self.same: dict[int, list[int]] = {}
        self._folded, self._merge = folded, merge
        self._seen: set[int] = set()
        self._pairs: dict[int, frozenset[str]] = {}

    def fill(self, numbers: Sequence[int], size: int) -> None:
        """Go on taking from `numbers` until `size` are taken."""
        for number in numbers:
            if len(self.taken) >= size:
                return
            if number in self._seen:
                continue
            self._seen.add(number)
            pairs = _pairs(self._folded[number])
            twin = next((other for other in self.taken if self._merge and _alike(self._pairs[other], pairs)), None)
            if twin is not None:
                self.same[twin].append(number)
                continue
            self.taken.append(number)
            self.same[number] = []
            self._pairs[number] = pairs


def _pairs(text: str) -> frozenset[str]:
    said = "".join(filter(str.isalnum, text))  # a book as HTML and as PDF differs in spaces, quotes and bullets
    return frozenset(map(add, said, said[1:]))


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    if not one or not other or min(len(one), len(other)) < SAME_TEXT * max(len(one), len(other)):
        return False
    return len(one & other) >= SAME_TEXT * len(one | other)
