"""Continuous batching over one context: who runs, who waits, what is cached. Knows no text and no templates.

A job is in one of these states:

    waiting ──admit──▶ running ──finish──▶ (its sequence stays as *cached*) ──evict──▶ free
       └────────────────┴── cancelled, expired, failed: ends at the next step

*Running* has two phases that nothing but the number of tokens still to be computed tells apart: with more than one
the sequence prefills, with one it decodes. Each step is one `decode` of every decoding sequence's token and, in
what room is left, of chunks of the prefilling ones, so a long prompt delays the others by one chunk at most. Where
nothing prefills, guesses at a decoding sequence's next tokens come along (`lookup.py`); the wrong ones are trimmed.

Invariants, kept by every method and checked by the property tests:

1. A sequence's `cells` and `tokens` have the same length: what it has computed (`sequences.py`).
2. Used cells + cells promised to running jobs ≤ capacity. A job is admitted only when all it can ever need is free
   or can be freed by putting cached sequences away, so nothing that runs is ever preempted and nothing deadlocks.
3. Jobs are admitted in order of arrival, but for one that waits for a prefix which another is computing right now.
4. A job hears exactly one end: its own last output, `fail`, or silence after `cancel`.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque

from ..errors import ContextOverflow, EngineFailure, HanpacaError, TimedOut
from .jobs import Decoder, Job, Slot
from .sequences import Sequences
from .shares import shares_of


class Scheduler:
    """Runs jobs on a decoder. `submit` and `Job.cancelled` may be used from any thread; the rest from one."""

    def __init__(
        self, decoder: Decoder, *, running: int = 64, chunk: int = 64, idle: int = 512, shelf: int = 0
    ) -> None:
        """`shelf`: bytes of host memory for cached sequences; with any, at most `idle` of their cells stay in the
        context. `chunk`: tokens of prompts beside decoding sequences, where attention has no tiles."""
        self._decoder = decoder
        self._most_running = min(running, decoder.sequences, decoder.outputs)
        self._chunk = min(chunk, decoder.batch)
        self._sequences = Sequences(decoder, idle, shelf)
        self._waiting: deque[Job] = deque()
        self._inbox: deque[Job] = deque()
        self._lock = threading.Lock()
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
        return len(self._sequences.running)

    @property
    def working(self) -> bool:
        """Whether there are jobs that have not ended."""
        return bool(self._inbox or self._waiting or self._sequences.running)

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do: jobs, or idle cells to be cleared."""
        return self.working or self._sequences.untidy

    # -- worker's side -------------------------------------------------------------------------------------------

    def step(self) -> None:
        """End what was cancelled or expired, admit what fits, and run one forward pass."""
        self.last_used = time.monotonic()
        self._sequences.moved = 0
        self._receive()
        self._reap()
        self._admit()
        self._sequences.tidy()
        if self._sequences.running:
            self._advance()

    def abandon(self, error: HanpacaError, owner: object = None) -> None:
        """Fail every job (of one owner, if given); what they computed stays cached."""
        self._receive()
        for job in [job for job in self._waiting if owner is None or job.owner is owner]:
            self._waiting.remove(job)
            self._end_job(job, error)
        for sequence in [s for s in self._sequences.running if owner is None or (s.job and s.job.owner is owner)]:
            self._retire(sequence, error)

    def reset(self, error: HanpacaError) -> None:
        """Fail every job and begin anew with empty cells, after a fault that may have left the books wrong."""
        self._receive()
        jobs = [*self._waiting, *(sequence.job for sequence in self._sequences.running if sequence.job)]
        self._waiting.clear()
        for sequence in range(self._decoder.sequences):
            self._decoder.trim(sequence, 0)
        self._sequences = self._sequences.anew()
        for job in dict.fromkeys(jobs):
            self._end_job(job, error)

    def forget_cached(self) -> None:
        """Evict every cached sequence."""
        self._sequences.forget()

    def _receive(self) -> None:
        with self._lock:
            self._waiting.extend(self._inbox)
            self._inbox.clear()

    def _reap(self) -> None:
        now = time.monotonic()
        for sequence in [s for s in self._sequences.running if s.job and _over(s.job, now)]:
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
            while self._waiting and len(self._sequences.running) < self._most_running:
                job = self._waiting.popleft()
                held_back.append(job)
                if self._deferred(job):
                    continue
                source, shared = self._sequences.prefix(job)
                if self._deferred(job):
                    continue
                if not self._sequences.start(job, source, shared):
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

    # -- one forward pass ----------------------------------------------------------------------------------------

    def _advance(self) -> None:
        shares = shares_of(self._sequences, self._decoder, self._chunk)
        tokens: list[int] = []
        positions: list[int] = []
        ids: list[int] = []
        outputs: list[bool] = []
        for sequence, count in shares:
            job, start = sequence.job, len(sequence.tokens)
            assert job is not None
            tokens += sequence.pending[:count] + sequence.guess
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
            guess, sequence.guess = sequence.guess, []
            self._sequences.book(sequence, count - len(guess))
            self._deliver(sequence, row, count - len(guess))
            if guess:
                self._follow(sequence, row + 1, guess)
            row += count

    def _follow(self, sequence: Slot, row: int, guess: list[int]) -> None:
        """Go on while what was drawn is what was guessed, whose rows begin at `row`; the rest leaves its cells."""
        for place, token in enumerate(guess):
            if sequence.pending != [token]:
                break
            self._sequences.book(sequence, 1)
            self._deliver(sequence, row + place, 1)
        self._decoder.trim(sequence.id, len(sequence.tokens))

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
        if sequence.pending:
            return
        if following is None or not sequence.promised:
            self._retire(sequence, None)
        else:
            sequence.pending.append(following)

    # -- ends ----------------------------------------------------------------------------------------------------

    def _retire(self, sequence: Slot, error: BaseException | None, *, keep: bool = True) -> None:
        """End a running job; its sequence stays cached if what it computed is sound."""
        self._end_job(self._sequences.retire(sequence, keep=keep), error)

    @staticmethod
    def _end_job(job: Job, error: BaseException | None) -> None:
        try:
            if error is not None and not job.cancelled:
                job.fail(_own(error))
        finally:
            job.released()


def _own(error: BaseException) -> BaseException:
    """A copy for each caller: a raised exception collects the trace of the thread that raises it."""
    if not isinstance(error, HanpacaError):
        return error
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin


def _over(job: Job, now: float) -> bool:
    return job.cancelled or (job.deadline is not None and now >= job.deadline)


def _verdict(job: Job | None, now: float) -> HanpacaError | None:
    if job is None or job.cancelled:
        return None
    return TimedOut("The request's time limit passed before its answer was complete.", "Raise `timeout`.")
