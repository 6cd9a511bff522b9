"""What is trained on, one after the other: an item is some tokens, their weights in the loss, and where texts begin.

Items come from a source, are put in an order that seed and epoch decide, and are packed into batches of tokens. Nothing
is padded. Knows no torch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_WINDOW = 512
"""Items among which those that fill a batch are looked for; more would fill batches hardly better."""


@dataclass(frozen=True)
class Item:
    """Tokens of one or more texts that do not see each other."""

    ids: NDArray[np.uint32]
    weights: NDArray[np.float32]
    """How much foreseeing each token counts; 0 for the first of each text."""
    segments: tuple[int, ...]
    """The lengths of the texts."""


class Source(Protocol):
    """Items by number, and an order for each epoch."""

    @property
    def identity(self) -> str:
        """Changes when the items do."""
        ...

    @property
    def refused(self) -> tuple[str, ...]:
        """Rows that were left out: place and reason."""
        ...

    def __len__(self) -> int: ...

    def item(self, number: int) -> Item:
        """One item."""
        ...

    def epoch(self, number: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(numbers of items in the order of an epoch, their lengths)."""
        ...


def shuffled(count: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """The numbers below `count` in an order that only the arguments decide."""
    return np.random.default_rng((seed, epoch)).permutation(count).astype(np.int64)


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Groups of positions whose lengths sum to at most `capacity`, in about the order given.

    Within a window the longest item that still fits comes next, so that batches are nearly full. An item longer than
    `capacity` stands alone.

    >>> pack([6, 5, 4, 3, 2], 10)
    [[0, 2], [1, 3, 4]]
    """
    groups: list[list[int]] = []
    waiting: dict[int, None] = {}  # in the order given
    by_length: list[tuple[int, int]] = []  # (length, -position), ascending
    following = 0
    while waiting or following < len(lengths):
        while len(waiting) < _WINDOW and following < len(lengths):
            waiting[following] = None
            insort(by_length, (lengths[following], -following))
            following += 1
        group, room, taken = [], capacity, next(iter(waiting))
        while True:
            group.append(taken)
            room -= lengths[taken]
            del waiting[taken]
            by_length.pop(bisect_left(by_length, (lengths[taken], -taken)))
            at = bisect_right(by_length, (room, 0)) - 1
            if at < 0:
                break
            taken = -by_length[at][1]
        groups.append(group)
    return groups


def joined(items: Sequence[Item]) -> Item:
    """Several items as one."""
    return Item(
        np.concatenate([item.ids for item in items]),
        np.concatenate([item.weights for item in items]),
        tuple(length for item in items for length in item.segments),
    )
