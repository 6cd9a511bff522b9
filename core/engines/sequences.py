"""The sequences of one context: running, cached and shelved, and the cells they hold. Knows no queue and no output.

A cached sequence keeps its cells while few are idle; then it is *shelved*: copied to host memory, from where it is
restored when a job begins with its tokens.

Keeps the first two invariants of `batching.py`: every computed token has a cell, and cells in use and cells promised
to running jobs never exceed the capacity.
"""

from __future__ import annotations

import time
from contextlib import suppress

from ..errors import EngineFailure
from .cells import Cells
from .jobs import Decoder, Job, Slot, common_prefix
from .shelf import Shelf

QUICK = 8 << 20
"""Bytes that are copied to and from the shelf in a few milliseconds, which a step can have besides."""
WORTH_WAITING = 32
"""Tokens of a prefix that another sequence is computing, for which a job waits rather than compute them again."""


class Sequences:
    """All sequences of a decoder. For the worker's thread only."""

    def __init__(self, decoder: Decoder, idle: int, shelf: int) -> None:
        """`idle`: most cells that cached sequences keep while one other runs, where there is a `shelf` (bytes)."""
        self.running: list[Slot] = []
        self.cached: list[Slot] = []
        self.cells = Cells(decoder.cells)
        self.shelf = Shelf(shelf)
        self.promised = 0
        """Cells that running jobs may still take."""
        self.moved = 0
        """Bytes that went to the shelf or came from it since this was last set."""
        self._decoder = decoder
        self._free_ids = list(range(decoder.sequences - 1, -1, -1))
        self._idle = idle
        self._each = 0.0
        """Bytes of a token's keys and values, measured once."""

    # -- starting and ending -------------------------------------------------------------------------------------

    def prefix(self, job: Job) -> tuple[Slot | None, int]:
        """The sequence with the longest computed common prefix; sets `job.defer` if a longer one is under way."""
        limit = min(job.first_output, len(job.tokens) - 1)
        best, shared = None, 0
        soon, later = None, 0
        for sequence in (*self.cached, *self.running):
            length = common_prefix(job.tokens, sequence.tokens, limit)
            if length > shared:
                best, shared = sequence, length
            if length == len(sequence.tokens) and len(sequence.pending) > 1:
                coming = common_prefix(job.tokens, sequence.target, limit)
                if coming > later:
                    soon, later = sequence, coming
        if soon is not None and later >= shared + WORTH_WAITING:
            job.defer = (soon, soon.job, later)
        return best, shared

    def start(self, job: Job, source: Slot | None, shared: int) -> bool:
        """Give the job a sequence that begins with `shared` tokens of `source`, or with more from the shelf, and its
        cells; False if they cannot be had yet."""
        source, shared = self._from_shelf(job, source, shared)
        need = len(job.tokens) - shared + job.max_new
        prefix = source.cells[:shared] if source else []
        if self.cells.pinned + self.cells.unpinned(prefix) + self.promised + need > self.cells.capacity:
            return False
        if source is not None and source.job is None and (len(source.tokens) == shared or not self._spare_id(source)):
            sequence = self._take_over(source, shared)
        else:
            sequence = self._branch(source, shared)
        self._make_room(need)
        sequence.job = job
        sequence.pending = job.tokens[shared:]
        sequence.promised = need
        self.promised += need
        self.running.append(sequence)
        job.started(shared)
        return True

    def book(self, sequence: Slot, count: int) -> None:
        """`count` tokens of a running sequence have been computed."""
        sequence.tokens += sequence.pending[:count]
        del sequence.pending[:count]
        sequence.cells += self.cells.take(count, pin=True)
        sequence.promised -= count
        self.promised -= count

    def retire(self, sequence: Slot, *, keep: bool) -> Job:
        """A running sequence becomes a cached one, if what it computed is sound; gives the job that it had."""
        job, sequence.job = sequence.job, None
        assert job is not None
        self.running.remove(sequence)
        self.promised -= sequence.promised
        sequence.promised = 0
        sequence.pending = []
        sequence.used = time.monotonic()
        self.cells.unpin(sequence.cells)
        self.cached.append(sequence)
        if not keep or not sequence.tokens:
            self._evict(sequence)
        return job

    def _spare_id(self, source: Slot) -> bool:
        return bool(self._free_ids) or any(cached is not source for cached in self.cached)

    def _take_over(self, source: Slot, shared: int) -> Slot:
        self.cached.remove(source)
        self.cells.drop(source.cells[shared:], pinned=False)
        self._decoder.trim(source.id, shared)
        del source.tokens[shared:], source.cells[shared:]
        source.saved, source.saved_to = [], 0
        self.cells.pin(source.cells)
        return source

    def _branch(self, source: Slot | None, shared: int) -> Slot:
        if not self._free_ids:
            self._put_away(min((s for s in self.cached if s is not source), key=lambda cached: cached.used))
        sequence = Slot(self._free_ids.pop())
        if source is not None and shared:
            self._decoder.copy(source.id, sequence.id, shared)
            sequence.tokens, sequence.cells = source.tokens[:shared], source.cells[:shared]
            self.cells.hold(sequence.cells, pin=True)
            source.used = time.monotonic()
        return sequence

    # -- cached and shelved --------------------------------------------------------------------------------------

    @property
    def untidy(self) -> bool:
        """Whether cells are idle that should not be."""
        return self._leaving() is not None

    def tidy(self) -> None:
        """Shelve what is untidy, as much in a step as is quick: a long sequence goes piece by piece."""
        if not self._each and (known := next((s for s in (*self.cached, *self.running) if s.tokens), None)):
            self._each = self._decoder.saved_size(known.id) / len(known.tokens)
        while self.moved <= QUICK // 2 and (slot := self._leaving()):
            self._put_away(slot, QUICK - self.moved)

    def _leaving(self) -> Slot | None:
        """The sequence to put away next, if too many cells are idle: one half copied, or the least recently used.

        Each running sequence looks past every idle cell, so the more run, the fewer may be. None is as good as one: the
        next one's cells should begin at the first; but what is not worth a copy stays then. What is too long for
        the shelf always does.
        """
        if (self.cells.used - self.cells.pinned) * max(len(self.running), 1) <= self._idle:
            return None
        least, most = 0 if self.running else WORTH_WAITING, self.shelf.budget
        fits = [slot for slot in self.cached if least < len(slot.tokens) and len(slot.tokens) * self._each <= most]
        return min(fits, key=lambda slot: (not slot.saved, slot.used), default=None)

    def _make_room(self, need: int) -> None:
        while self.cells.used + self.promised + need > self.cells.capacity:
            self._put_away(min(self.cached, key=lambda cached: cached.used))

    def _put_away(self, slot: Slot, most: int | None = None) -> None:
        """Free a cached sequence's cells; what no other sequence holds, but for a few tokens, is shelved first. With
        `most`, no more bytes than that are copied now (or one token), and the cells are free when all are."""
        enough = len(slot.tokens) - WORTH_WAITING
        others = (other for other in (*self.cached, *self.running) if other is not slot)
        held = max((common_prefix(slot.tokens, other.tokens, len(slot.tokens)) for other in others), default=0)
        entry, shelved = self.shelf.best(slot.tokens, len(slot.tokens))
        if entry is not None and shelved > enough:
            self.shelf.touch(entry)
        elif self.shelf.budget and held <= enough and (size := self._decoder.saved_size(slot.id)) <= self.shelf.budget:
            with suppress(MemoryError, EngineFailure):
                if not self._save(slot, size, most):
                    return
                self.shelf.put(slot.tokens, slot.saved, size)
        self._evict(slot)

    def _save(self, slot: Slot, size: int, most: int | None) -> bool:
        """Copy the next piece of a cached sequence of `size` bytes; whether that was the last."""
        start, stop = slot.saved_to, len(slot.tokens)
        each = max(size // stop, 1)
        if most is not None:
            stop = min(stop, start + max(most // each, 1))
        self.moved += (stop - start) * each
        slot.saved.append(self._decoder.save(slot.id, start, stop))
        slot.saved_to = stop
        return stop == len(slot.tokens)

    def _from_shelf(self, job: Job, source: Slot | None, shared: int) -> tuple[Slot | None, int]:
        """The shelf's longer prefix, restored, if it has one and the job can start with it; else what was given."""
        limit = min(job.first_output, len(job.tokens) - 1)
        entry, length = self.shelf.best(job.tokens, limit)
        if entry is None or length < shared + WORTH_WAITING:
            return source, shared
        size, need = len(entry.tokens), len(job.tokens) - length + job.max_new
        if self.cells.pinned + self.promised + max(size, length + need) > self.cells.capacity:
            return source, shared
        self.shelf.touch(entry)  # before others come onto the shelf, which may push it off
        self._make_room(size)
        if not self._free_ids:
            self._put_away(min(self.cached, key=lambda cached: cached.used))
        slot = Slot(self._free_ids.pop())
        self.moved += entry.size
        if not self._decoder.restore(slot.id, entry.state):
            self._free_ids.append(slot.id)
            self.shelf.drop(entry)
            return self.prefix(job)
        slot.tokens, slot.cells = list(entry.tokens), self.cells.take(size, pin=False)
        slot.used = time.monotonic()
        self.cached.append(slot)
        return slot, length

    def anew(self) -> Sequences:
        """Books without any entry, for the same decoder, which was emptied."""
        return Sequences(self._decoder, self._idle, self.shelf.budget)

    def forget(self) -> None:
        """Evict every cached sequence, and clear the shelf."""
        while self.cached:
            self._evict(self.cached[0])
        self.shelf = Shelf(self.shelf.budget)

    def _evict(self, sequence: Slot) -> None:
        self.cached.remove(sequence)
        self.cells.drop(sequence.cells, pinned=False)
        self._decoder.trim(sequence.id, 0)
        self._free_ids.append(sequence.id)
