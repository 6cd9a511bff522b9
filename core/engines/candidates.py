"""Which few tokens of a vocabulary can be drawn at all, so that a sampler chain need not look at every one.

Of 49,152 tokens llama.cpp's penalties look up each, which takes four times as long as all the rest of a draw
(`tests/benchmarks/LOG.md`). Knows no sampler: numbers only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..sampling import Sampling

_GROUP = 64
"""Tokens among which one largest logit is found first."""
_MOST = 1024
"""Candidates above which a chain may as well look at all tokens."""


class Candidates:
    """Chooses, for one request, the tokens that its chain has to see; the draw is the same as from all of them, but
    that llama.cpp orders tokens of exactly equal logits (as after a bias of 1e9) by how many it is given.

    A bias or a penalty changes the logits of some tokens only, the rest keep their order. So what is among the k
    likeliest afterwards was changed or was among the k + (how many were changed) likeliest before.
    """

    def __init__(self, sampling: Sampling) -> None:
        s = sampling
        penalized = s.repetition_penalty != 1 or s.presence_penalty or s.frequency_penalty
        self._biased = np.fromiter(s.logit_bias, np.intp, len(s.logit_bias))
        self._recent: deque[int] = deque(maxlen=s.penalty_last_n if penalized and s.penalty_last_n >= 0 else 0)
        kept = 1 if s.temperature == 0 else s.top_k
        self._count = kept + self._biased.size + (self._recent.maxlen or 0)
        self._plainly = s.temperature == 0 and not penalized and all(bias <= 0 for bias in s.logit_bias.values())
        unbounded = not kept or s.mirostat or (penalized and s.penalty_last_n < 0)
        self.few = not unbounded and self._count <= _MOST // 2
        """Whether there is anything to choose."""

    def certain(self, logits: NDArray[np.float32]) -> int | None:
        """The token that is drawn where the settings leave no choice: the likeliest, if nothing lowers its logit and
        nothing raises another's. None: the chain has to see.

        >>> Candidates(Sampling(temperature=0, repetition_penalty=1)).certain(np.array([0, 2, 1], np.float32))
        1
        """
        if not self._plainly:
            return None
        token = int(logits.argmax())
        return token if token not in self._biased and np.isfinite(logits[token]) else None

    def accept(self, token: int) -> None:
        """A token was drawn: penalties look at it from now on."""
        self._recent.append(token)

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.intp] | None:
        """Ids in ascending order, or None: all."""
        ids = likeliest(logits, self._count) if self.few else None
        if ids is None or ids.size > _MOST:
            return None
        return _union(ids, self._biased, self._recent)


def likeliest(logits: NDArray[np.float32], count: int) -> NDArray[np.intp] | None:
    """Ids, ascending, of at least the `count` largest of `logits`, (vocabulary,), and of few more; None: of all.

    Of the groups into which the vocabulary is split, `count` have their largest logit at or above a bound, so that many
    tokens at least are; those are all that can be among the `count` largest.

    >>> likeliest(np.arange(12_800, dtype=np.float32), 2)
    array([12798, 12799])
    """
    width = logits.size // _GROUP
    if count >= width:
        return None
    split = width * _GROUP
    largest = logits[:split].reshape(_GROUP, width).max(axis=0)
    bound = np.partition(largest, width - count)[width - count]
    ids = np.flatnonzero(logits >= bound)
    return ids if ids.size >= count else None  # fewer: a logit is no number


def _union(ids: NDArray[np.intp], biased: NDArray[np.intp], recent: Iterable[int]) -> NDArray[np.intp]:
    changed = [*biased.tolist(), *recent]
    return np.union1d(ids, np.array(changed, np.intp)) if changed else ids
