"""Leaving out text that was seen before: exactly the same, or nearly. Knows no files and no tokenizer.

Nearly the same: MinHash over character 5-grams (Broder 1997), found by locality-sensitive hashing in bands.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput

LEAST = 32
"""Shorter paragraphs are kept, however often they occur: headings, refrains, signatures."""
_GRAM = 5
_HASHES = 64
_PRIME = np.uint64((1 << 61) - 1)
_SPACE = re.compile(r"\s+")


class Duplicates:
    """Remembers what it was shown."""

    def __init__(self, *, exact: bool = True, near: float | None = None) -> None:
        """`near`: the share of common 5-grams (Jaccard) from which on two texts count as one; 0.5 to 1."""
        if near is not None and not 0.5 <= near < 1:
            raise BadInput(f"near_duplicates is a share from 0.5 to below 1, not {near}.", "0.8 is usual.")
        self._seen: set[bytes] | None = set() if exact else None
        self._near = _Near(near) if near is not None else None
        self.removed = self.characters = 0

    def new_parts(self, text: str) -> str:
        """`text` without the paragraphs that were there before; blank lines separate paragraphs, else line ends."""
        if self._seen is None and self._near is None:
            return text
        separator = "\n\n" if "\n\n" in text else "\n"
        kept = [part for part in text.split(separator) if self._is_new(part)]
        return separator.join(kept)

    def _is_new(self, paragraph: str) -> bool:
        plain = _SPACE.sub("", paragraph)
        if len(plain) < LEAST:
            return True
        if self._seen is not None:
            key = hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=12).digest()
            if key in self._seen:
                return self._count(paragraph)
            self._seen.add(key)
        return self._near is None or self._near.is_new(plain) or self._count(paragraph)

    def _count(self, paragraph: str) -> bool:
        self.removed += 1
        self.characters += len(paragraph)
        return False


class _Near:
    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._bands = _bands(threshold)
        self._tables: list[dict[bytes, list[int]]] = [{} for _ in range(self._bands)]
        self._signatures: list[NDArray[np.uint64]] = []
        chance = np.random.default_rng(0)
        self._factors = chance.integers(1, 1 << 31, _HASHES, dtype=np.uint64)
        self._offsets = chance.integers(0, 1 << 31, _HASHES, dtype=np.uint64)

    def is_new(self, text: str) -> bool:
        """Whether no text shown before is nearly this one; it is remembered."""
        signature = self._signature(text)
        keys = [part.tobytes() for part in np.array_split(signature, self._bands)]
        for number in {n for table, key in zip(self._tables, keys, strict=True) for n in table.get(key, ())}:
            if float((self._signatures[number] == signature).mean()) >= self._threshold:
                return False
        for table, key in zip(self._tables, keys, strict=True):
            table.setdefault(key, []).append(len(self._signatures))
        self._signatures.append(signature)
        return True

    def _signature(self, text: str) -> NDArray[np.uint64]:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
        grams = np.zeros(max(1, len(codes) - _GRAM + 1), dtype=np.uint64)
        for at in range(min(_GRAM, len(codes))):
            grams = grams * np.uint64(1_000_003) + codes[at : at + len(grams)]
        grams = np.unique(grams) & np.uint64(0xFFFF_FFFF)
        mixed = (grams[:, None] * self._factors + self._offsets) % _PRIME
        lowest: NDArray[np.uint64] = mixed.min(axis=0)
        return lowest


def _bands(threshold: float) -> int:
    """Bands whose steep part, (1 / bands) ** (bands / hashes), lies a little below the threshold."""
    fitting = [bands for bands in (4, 8, 16, 32) if (1 / bands) ** (bands / _HASHES) <= threshold - 0.05]
    return min(fitting, default=32)


def unique(texts: Iterable[str], *, near: float | None = None) -> Iterator[str]:
    """The texts that are new, in order.

    >>> list(unique(["一" * 40, "二" * 40, "一" * 40])) == ["一" * 40, "二" * 40]
    True
    """
    seen = Duplicates(near=near)
    for text in texts:
        if part := seen.new_parts(text):
            yield part
