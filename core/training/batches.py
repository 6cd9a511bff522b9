"""Items → batches of tensors, the whole run laid out beforehand, so that any step can be gone back to.

Knows PyTorch's tensors, no model.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .items import Item, Source, joined, pack

Batch = dict[str, Any]


class Batches:
    """A map-style data set whose items are batches, in the order of the run, every epoch packed anew."""

    def __init__(
        self, source: Source, *, tokens: int, epochs: float, seed: int, most: int | None = None, multiple: int = 1
    ) -> None:
        """`tokens`: most of a batch. `most`: batches, fewer than the epochs give. Their number becomes a multiple of
        `multiple` by empty ones, so that every process has as many."""
        self._source, self._tokens, self._seed = source, tokens, seed
        self._ends: list[int] = []
        self.tokens = 0
        epoch, left = 0, epochs
        while left > 0 and (most is None or not self._ends or self._ends[-1] < most):
            groups = self._groups(epoch)
            share = groups[: max(1, round(len(groups) * left))] if left < 1 else groups
            self._ends.append((self._ends[-1] if self._ends else 0) + len(share))
            epoch, left = epoch + 1, left - 1
        self.real = min(self._ends[-1], most) if most is not None else self._ends[-1]
        self._length = -(-self.real // multiple) * multiple

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Batch:
        if number >= self.real:
            empty = collate([Item(np.zeros(1, np.uint32), np.zeros(1, np.float32), (1,))])
            return empty | self._extra([])
        return collate(self.items(number)) | self._extra(self.numbers(number))

    def _extra(self, numbers: list[int]) -> Batch:
        """What a source knows of its items besides tokens."""
        extra = getattr(self._source, "extra", None)
        return extra(numbers) if extra else {}

    def numbers(self, number: int) -> list[int]:
        """The numbers of a batch's items in their source."""
        epoch = int(np.searchsorted(self._ends, number, side="right"))
        first = self._ends[epoch - 1] if epoch else 0
        return [int(item) for item in self._groups(epoch)[number - first]]

    def items(self, number: int) -> list[Item]:
        """The items of a batch."""
        return [self._source.item(item) for item in self.numbers(number)]

    @property
    def epochs(self) -> list[int]:
        """The number of the batch with which each epoch ends."""
        return self._ends

    def _groups(self, epoch: int) -> list[Any]:
        source: Any = self._source
        return _packed(source, epoch, self._seed, self._tokens)


@lru_cache(maxsize=4)  # a source is itself, whatever it holds
def _packed(source: Any, epoch: int, seed: int, tokens: int) -> list[Any]:
    order, lengths = source.epoch(epoch, seed)
    if (lengths < lengths.max()).sum() <= 1:  # blocks: all of one length, but for the last
        each = max(1, tokens // int(lengths.max()))
        return [order[at : at + each] for at in range(0, len(order), each)]
    return [order[group] for group in pack(lengths.tolist(), tokens)]


def collate(items: list[Item]) -> Batch:
    """One row of all items: ids, positions that begin anew with each text, and what is to be foreseen where.

    `keep` are the positions whose next token has a weight, `targets` and `weights` that token and its weight,
    `owner` the number of the text it is in. A batch without any keeps its first position with weight 0, for every
    process has a loss.
    """
    import torch

    whole = joined(items)
    positions = np.concatenate([np.arange(length) for length in whole.segments])
    weighted = np.flatnonzero((whole.weights > 0) & (positions > 0))
    weights = whole.weights[weighted]
    if not len(weighted):
        weighted, weights = np.array([min(1, len(whole.ids) - 1)]), np.zeros(1, np.float32)
    return {
        "input_ids": torch.from_numpy(whole.ids.astype(np.int64))[None],
        "position_ids": torch.from_numpy(positions)[None],
        "segments": whole.segments,
        "keep": torch.from_numpy(np.maximum(weighted - 1, 0)),
        "targets": torch.from_numpy(whole.ids[weighted].astype(np.int64)),
        "weights": torch.from_numpy(weights.copy()),
        "owner": torch.from_numpy(np.searchsorted(np.cumsum(whole.segments), weighted, side="right")),
    }
