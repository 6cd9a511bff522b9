"""Continuous batching over one context: who runs, who waits, what is cached. Knows no text and no templates.

A job is in one of these states:

    waiting ──admit──▶ running ──finish──▶ (its sequence stays as *cached*) ──evict──▶ free
       └────────────────┴── cancelled, expired, failed: ends at the next step

A cached sequence keeps its cells while few are idle; then it is *shelved*: copied to host memory, from where it is
restored when a job begins with its tokens.

*Running* has two phases that nothing but the number of tokens still to be computed tells apart: with more than one
the sequence prefills, with one it decodes. Each step is one `decode` of every decoding sequence's token and, in
what room is left, of chunks of the prefilling ones, so a long prompt delays the others by one chunk at most.

Invariants, kept by every method and checked by the property tests:

1. A sequence's `cells` and `tokens` have the same length: what it has computed.
2. Used cells + cells promised to running jobs ≤ capacity. A job is admitted only when all it can ever need is free
   or can be freed by evicting cached sequences, so nothing that runs is ever preempted and nothing deadlocks.
3. Jobs are admitted in order of arrival, but for one that waits for a prefix which another is computing right now.
4. A job hears exactly one end: its own last output, `fail`, or silence after `cancel`.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from ..errors import ContextOverflow, EngineFailure, HanpacaError, TimedOut
from .cells import Cells
from .jobs import Decoder, Job, Slot, common_prefix
from .shelf import Shelf

WORTH_WAITING = 32
"""Tokens of a prefix that another sequence is computing, for which a job waits rather than compute them again."""


class Scheduler:
    """Runs jobs on a decoder. `submit` and `Job.cancelled` may be used from any thread; the rest from one."""

    def __init__(
        self, decoder: Decoder, *, running: int = 64, chunk_beside: int = 64, idle: int = 512, shelf: int = 0
    ) -> None:
        """`shelf`: bytes of host memory for cached sequences; with any, at most `idle` of their cells stay in the
        context while others run."""
        self._decoder = decoder
        self._most_running = min(running, decoder.sequences, decoder.outputs)
        self._chunk_beside = min(chunk_beside, decoder.batch)
        self._cells = Cells(decoder.cells)
        self._free_ids = list(range(decoder.sequences - 1, -1, -1))
        self._running: list[Slot] = []
        self._cached: list[Slot] = []
        self._waiting: deque[Job] = deque()
        self._inbox: deque[Job] = deque()
        self._lock = threading.Lock()
        self._promised = 0
        self._idle = idle
        self._shelf = Shelf(shelf)
        self.computed = 0
        """Tokens decoded so far, for tests and benchmarks."""
        self.last_used = time.monotonic()

    # -- callers' side -------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queue a job. Raises `ContextOverflow` for one that can never fit."""
        if len(job.tokens) + job.max_new > self._decoder.cells:
            raise ContextOverflow(
                f"{len(job.tokens)} prompt tokens and {job.max_new} new ones exceed the {self._decoder.cells} cells of "
                "this context.",
                "Shorten the prompt, ask for fewer tokens, or load the model with more cells.",
            )
        with self._lock:
            self._inbox.append(job)

    @property
    def waiting(self) -> int:
        """Jobs not admitted yet."""
        return len(self._inbox) + len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs admitted and not ended."""
        return len(self._running)

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._inbox or self._waiting or self._running)

    # -- worker's side -------------------------------------------------------------------------------------------

    def step(self) -> None:
        """End what was cancelled or expired, admit what fits, and run one forward pass."""
        self.last_used = time.monotonic()
        self._receive()
        self._reap()
        self._admit()
        if self._running:
            self._tidy()
            self._advance()

    def abandon(self, error: HanpacaError, owner: object = None) -> None:
        """Fail every job (of one owner, if given)."""
        self._receive()
        for job in [job for job in self._waiting if owner is None or job.owner is owner]:
            self._waiting.remove(job)
            self._end_job(job, error)
        for sequence in [s for s in self._running if owner is None or (s.job and s.job.owner is owner)]:
            self._retire(sequence, error)

    def forget_cached(self) -> None:
        """Evict every cached sequence, and clear the shelf."""
        while self._cached:
            self._evict(self._cached[0])
        self._shelf = Shelf(self._shelf.budget)

    def _receive(self) -> None:
        with self._lock:
            self._waiting.extend(self._inbox)
            self._inbox.clear()

    def _reap(self) -> None:
        now = time.monotonic()
        for sequence in [s for s in self._running if s.job and _over(s.job, now)]:
            self._retire(sequence, _verdict(sequence.job, now))
        if any(_over(job, now) for job in self._waiting):
            over = [job for job in self._waiting if _over(job, now)]
            self._waiting = deque(job for job in self._waiting if not _over(job, now))
            for job in over:
                self._end_job(job, _verdict(job, now))

    # -- admission -----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        held_back: list[Job] = []  # what is not started goes back to its place, also when something fails
        try:
            while self._waiting and len(self._running) < self._most_running:
                job = self._waiting.popleft()
                held_back.append(job)
                if self._deferred(job):
                    continue
                source, shared = self._prefix(job)
                if self._deferred(job):
                    continue
                if not self._start(job, *self._from_shelf(job, source, shared)):
                    break
                held_back.pop()
        finally:
            self._waiting.extendleft(reversed(held_back))

    @staticmethod
    def _deferred(job: Job) -> bool:
        """Whether the prefix this job waits for is still being computed."""
        if job.defer is None:
            return False
        sequence, owner, length = job.defer
        if sequence.job is owner and len(sequence.tokens) < length:
            return True
        job.defer = None
        return False

    def _prefix(self, job: Job) -> tuple[Slot | None, int]:
        """The sequence with the longest computed common prefix; sets `job.defer` if a longer one is under way."""
        limit = min(job.first_output, len(job.tokens) - 1)
        best, shared = None, 0
        soon, later = None, 0
        for sequence in (*self._cached, *self._running):
            length = common_prefix(job.tokens, sequence.tokens, limit)
            if length > shared:
                best, shared = sequence, length
            if length == len(sequence.tokens) and len(sequence.todo) > 1:
                coming = common_prefix(job.tokens, sequence.target, limit)
                if coming > later:
                    soon, later = sequence, coming
        if soon is not None and later >= shared + WORTH_WAITING:
            job.defer = (soon, soon.job, later)
        return best, shared

    def _start(self, job: Job, source: Slot | None, shared: int) -> bool:
        """Give the job a sequence and its cells; False if they cannot be had yet."""
        need = len(job.tokens) - shared + job.max_new
        prefix = source.cells[:shared] if source else []
        if self._cells.pinned + self._cells.unpinned(prefix) + self._promised + need > self._cells.capacity:
            return False
        if source is not None and source.job is None and (len(source.tokens) == shared or not self._spare_id(source)):
            sequence = self._take_over(source, shared)
        else:
            sequence = self._branch(source, shared)
        self._make_room(need)
        sequence.job = job
        sequence.todo = job.tokens[shared:]
        sequence.promised = need
        self._promised += need
        self._running.append(sequence)
        job.started(shared)
        return True

    def _spare_id(self, source: Slot) -> bool:
        return bool(self._free_ids) or any(cached is not source for cached in self._cached)

    def _take_over(self, source: Slot, shared: int) -> Slot:
        self._cached.remove(source)
        self._cells.drop(source.cells[shared:], pinned=False)
        self._decoder.trim(source.id, shared)
        del source.tokens[shared:], source.cells[shared:]
        self._cells.pin(source.cells)
        return source

    def _branch(self, source: Slot | None, shared: int) -> Slot:
        if not self._free_ids:
            self._put_away(min((s for s in self._cached if s is not source), key=lambda cached: cached.used))
        sequence = Slot(self._free_ids.pop())
        if source is not None and shared:
            self._decoder.copy(source.id, sequence.id, shared)
            sequence.tokens, sequence.cells = source.tokens[:shared], source.cells[:shared]
            self._cells.hold(sequence.cells, pin=True)
            source.used = time.monotonic()
        return sequence

    # -- cached sequences ----------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Shelve cached sequences, least recently used first, until few cells are idle."""
        while self._shelf.budget and self._cached and self._cells.used - self._cells.pinned > self._idle:
            self._put_away(min(self._cached, key=lambda cached: cached.used))

    def _make_room(self, need: int) -> None:
        while self._cells.used + self._promised + need > self._cells.capacity:
            self._put_away(min(self._cached, key=lambda cached: cached.used))

    def _put_away(self, slot: Slot) -> None:
        """Free a cached sequence's cells; what no other sequence holds, but for a few tokens, is shelved first."""
        enough = len(slot.tokens) - WORTH_WAITING
        others = (other for other in (*self._cached, *self._running) if other is not slot)
        held = max((common_prefix(slot.tokens, other.tokens, len(slot.tokens)) for other in others), default=0)
        entry, shelved = self._shelf.best(slot.tokens, len(slot.tokens))
        if entry is not None and shelved > enough:
            self._shelf.touch(entry)
        elif (
            self._shelf.budget and held <= enough and (size := self._decoder.saved_size(slot.id)) <= self._shelf.budget
        ):
            self._shelf.put(slot.tokens, self._decoder.save(slot.id), size)
        self._evict(slot)

    def _from_shelf(self, job: Job, source: Slot | None, shared: int) -> tuple[Slot | None, int]:
        """The shelf's longer prefix, restored, if it has one and the job can start with it; else what was given."""
        limit = min(job.first_output, len(job.tokens) - 1)
        entry, length = self._shelf.best(job.tokens, limit)
        if entry is None or length < shared + WORTH_WAITING:
            return source, shared
        size, need = len(entry.tokens), len(job.tokens) - length + job.max_new
        if self._cells.pinned + self._promised + max(size, length + need) > self._cells.capacity:
            return source, shared
        self._shelf.touch(entry)  # before others come onto the shelf, which may push it off
        self._make_room(size)
        if not self._free_ids:
            self._put_away(min(self._cached, key=lambda cached: cached.used))
        slot = Slot(self._free_ids.pop())
        if not self._decoder.restore(slot.id, entry.state):
            self._free_ids.append(slot.id)
            return self._prefix(job)
        slot.tokens, slot.cells = list(entry.tokens), self._cells.take(size, pin=False)
        slot.used = time.monotonic()
        self._cached.append(slot)
        return slot, length

    # -- one forward pass ----------------------------------------------------------------------------------------

    def _advance(self) -> None:
        shares = self._shares()
        tokens: list[int] = []
        positions: list[int] = []
        ids: list[int] = []
        outputs: list[bool] = []
        for sequence, count in shares:
            job, start = sequence.job, len(sequence.tokens)
            assert job is not None
            tokens += sequence.todo[:count]
            positions += range(start, start + count)
            ids += [sequence.id] * count
            outputs += [position >= job.first_output for position in range(start, start + count)]
        try:
            self._decoder.decode(tokens, positions, ids, outputs)
        except EngineFailure as error:
            for sequence, _ in shares:
                self._retire(sequence, error, keep=False)
            return
        self.computed += len(tokens)
        row = 0
        for sequence, count in shares:
            self._book(sequence, count)
            self._deliver(sequence, row, count)
            row += count

    def _shares(self) -> list[tuple[Slot, int]]:
        """How many tokens each running sequence computes in this step.

        Every decoding sequence has one. Of the rest the oldest prefilling sequence gets half, so that it ends; the
        others follow by what they still need, so that a short prompt need not wait for a long one.
        """
        shares = [(sequence, 1) for sequence in self._running if len(sequence.todo) == 1]
        prefilling = [sequence for sequence in self._running if len(sequence.todo) > 1]
        if not prefilling:
            return shares
        room = min(self._chunk_beside, self._decoder.batch - len(shares)) if shares else self._decoder.batch
        oldest, others = prefilling[0], sorted(prefilling[1:], key=lambda s: len(s.todo))
        left = room // 2 if others else room
        counts = {oldest.id: min(left, len(oldest.todo))}
        room -= counts[oldest.id]
        for sequence in others:
            counts[sequence.id] = min(room, len(sequence.todo))
            room -= counts[sequence.id]
        counts[oldest.id] += min(room, len(oldest.todo) - counts[oldest.id])
        return self._within_outputs(shares + [(s, counts[s.id]) for s in prefilling if counts[s.id]])

    def _within_outputs(self, shares: list[tuple[Slot, int]]) -> list[tuple[Slot, int]]:
        """Cut shares so that no more tokens ask for logits than one pass gives; a score may ask for many."""
        left = self._decoder.outputs
        result: list[tuple[Slot, int]] = []
        for sequence, count in shares:
            assert sequence.job is not None
            silent = max(0, min(count, sequence.job.first_output - len(sequence.tokens)))
            count = silent + min(count - silent, left)
            left -= count - silent
            if count:
                result.append((sequence, count))
        return result

    def _book(self, sequence: Slot, count: int) -> None:
        sequence.tokens += sequence.todo[:count]
        del sequence.todo[:count]
        sequence.cells += self._cells.take(count, pin=True)
        sequence.promised -= count
        self._promised -= count

    def _deliver(self, sequence: Slot, row: int, count: int) -> None:
        """Hand a job its outputs; `row` is the first of its `count` rows."""
        job = sequence.job
        assert job is not None
        start = len(sequence.tokens) - count
        try:
            following = None
            for position in range(max(start, job.first_output), start + count):
                following = job.output(row + position - start, position)
        except Exception as error:
            self._retire(sequence, error)
            return
        if sequence.todo:
            return
        if following is None or not sequence.promised:
            self._retire(sequence, None)
        else:
            sequence.todo.append(following)

    # -- ends ----------------------------------------------------------------------------------------------------

    def _retire(self, sequence: Slot, error: BaseException | None, *, keep: bool = True) -> None:
        """End a running job; its sequence stays cached if what it computed is sound."""
        job, sequence.job = sequence.job, None
        assert job is not None
        self._running.remove(sequence)
        self._promised -= sequence.promised
        sequence.promised = 0
        sequence.todo = []
        sequence.used = time.monotonic()
        self._cells.unpin(sequence.cells)
        self._cached.append(sequence)
        if not keep or not sequence.tokens:
            self._evict(sequence)
        self._end_job(job, error)

    def _evict(self, sequence: Slot) -> None:
        self._cached.remove(sequence)
        self._cells.drop(sequence.cells, pinned=False)
        self._decoder.trim(sequence.id, 0)
        self._free_ids.append(sequence.id)

    @staticmethod
    def _end_job(job: Job, error: BaseException | None) -> None:
        try:
            if error is not None and not job.cancelled:
                job.fail(error)
        finally:
            job.released()


def _over(job: Job, now: float) -> bool:
    return job.cancelled or (job.deadline is not None and now >= job.deadline)


def _verdict(job: Job | None, now: float) -> HanpacaError | None:
    if job is None or job.cancelled:
        return None
    return TimedOut("The request's time limit passed before its answer was complete.", "Raise `timeout`.")
