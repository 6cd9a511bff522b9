"""What the scheduler handles: jobs, the sequences that compute them, and the decoder that does it. No scheduling."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from .lookup import Lookup


class Decoder(Protocol):
    """The native side: cache cells by sequence id, and one forward pass."""

    cells: int
    batch: int
    """Most tokens of one `decode`."""
    outputs: int
    """Most tokens of one `decode` that ask for logits; at least `sequences`, or `batch` if that is smaller."""
    sequences: int
    """Sequence ids run from 0 to this, exclusive."""
    tile: int
    """Tokens whose attention is computed together; where a pass has fewer, it is computed one by one, which takes
    longer after long prompts. 1: always one by one, or always all."""
    tile_depth: int
    """Tokens before a pass from which on whole tiles take long and gain little."""

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], outputs: Sequence[bool]
    ) -> None:
        """One forward pass. Raises `EngineFailure`."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Let `target`, which is empty, share the first `length` cells of `source`."""
        ...

    def trim(self, sequence: int, length: int) -> None:
        """Drop a sequence's cells from position `length` on."""
        ...

    def saved_size(self, sequence: int) -> int:
        """Bytes that a copy of a whole sequence takes."""
        ...

    def save(self, sequence: int, start: int, stop: int) -> Any:
        """A copy of a sequence's keys and values, from position `start` to `stop`, exclusive."""
        ...

    def restore(self, sequence: int, pieces: Sequence[Any]) -> bool:
        """Put copies that follow each other into `sequence`, which is empty; False if it cannot be."""
        ...


class Job:
    """One request as the scheduler sees it. Subclasses say what to do with an output."""

    def __init__(self, tokens: Sequence[int], max_new: int, first_output: int, timeout: float | None = None) -> None:
        self.tokens = list(tokens)
        self.max_new = max_new
        self.first_output = first_output
        """Logits are wanted from this position on; the last prompt position at the latest."""
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.cancelled = False
        self.owner: object = None
        self.decoder: Any = None
        self.defer: tuple[Slot, Job | None, int] | None = None
        self.lookup: Lookup | None = None
        """Guesses at what comes next, where the job wants them."""

    def started(self, cached: int) -> None:
        """The job was admitted; `cached` of its tokens need no computing."""

    def output(self, row: int, position: int) -> int | None:
        """Logits of `position` are in row `row` of the last decode. The next token to compute, or None: done."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """The job ended with an error."""
        raise NotImplementedError

    def released(self) -> None:
        """The scheduler has forgotten the job, however it ended."""


class Slot:
    """A sequence id with what it has computed, and its job while it runs."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.tokens: list[int] = []
        self.cells: list[int] = []
        self.pending: list[int] = []
        self.guess: list[int] = []
        """What may follow `pending`: computed in the same pass, and kept where it was drawn."""
        self.job: Job | None = None
        self.promised = 0
        self.used = 0.0
        self.saved: list[Any] = []
        """Copies of its first `saved_to` tokens, while it is being shelved."""
        self.saved_to = 0

    @property
    def target(self) -> list[int]:
        return self.tokens + self.pending


def common_prefix(first: Sequence[int], second: Sequence[int], limit: int) -> int:
    """Length of the common prefix of two lists, at most `limit`.

    >>> common_prefix([1, 2, 3, 4], [1, 2, 9], 8)
    2
    """
    high = min(len(first), len(second), limit)
    low = 0
    if high and first[0] != second[0]:
        return 0
    while low < high:  # slices compare in C: bisect on them
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
