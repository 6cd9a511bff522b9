"""Weights that several engines of this process use: loaded once, run by one worker, freed when the last engine goes.

Knows which contexts are open and who uses them; neither what a context is made of nor what the jobs in it do.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, Self, TypeVar

from ..errors import Closed, EngineFailure, HanpacaError
from .batching import Scheduler
from .jobs import Decoder, Job
from .worker import Worker, closed

K = TypeVar("K", bound=Hashable)
D = TypeVar("D", bound=Decoder)


class Shared(Generic[K, D]):
    """Weights with their worker and contexts. Subclasses load, open and free; all three run on the worker thread."""

    _place: _Place

    def __init__(self, name: str) -> None:
        self._worker = Worker(name)
        self._contexts: dict[K, tuple[D, Scheduler]] = {}
        self._users: dict[object, set[K]] = {}
        self._arriving = 0
        self._readers = 0
        self._lock = threading.Condition(threading.Lock())
        try:
            self._worker.call(self._load)
        except BaseException:
            self._worker.stop(self._end)  # an interrupted caller leaves a load that goes on
            raise

    def _load(self) -> None:
        """Load the weights."""
        raise NotImplementedError

    def _open(self, key: K) -> tuple[D, Scheduler]:
        """A new context. May close idle ones with `_close`."""
        raise NotImplementedError

    def _close_context(self, context: D) -> None:
        """Free a context, which has no jobs any more."""

    def _free(self) -> None:
        """Free the weights, if they were loaded; all contexts are closed."""

    # -- who uses it ---------------------------------------------------------------------------------------------

    @classmethod
    def acquire(cls, key: Hashable, make: Callable[[], Self]) -> Self:
        """The weights of a key, made if they are not there; one `release` for each. Blocks while they load, but
        nobody who wants others."""
        _start_sweeper()
        full = (cls, os.getpid(), key)
        with _lock:
            place = _places.setdefault(full, _Place(full))
            place.users += 1
        try:
            with place.loading:
                if place.shared is None:
                    place.shared = make()
                    place.shared._place = place
        except BaseException:
            place.leave()
            raise
        return place.shared  # type: ignore[no-any-return]

    def enter(self, owner: object) -> None:
        """An engine begins to submit jobs, under this name."""
        with self._lock:
            self._users[owner] = set()

    def release(self, owner: object) -> None:
        """One engine less: its jobs end with `Closed`, and the last one frees the weights."""
        if self._place.leave():
            self._worker.stop(self._end)
        else:
            with suppress(Closed, EngineFailure):  # at the interpreter's end the workers stop before their engines
                self._worker.post(lambda: self._abandon(owner))

    def release_later(self, owner: object) -> None:
        """`release` for the garbage collector, which may come while this thread holds any lock."""
        _orphans.put((self._worker.pid, self, owner))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keeps the weights from being freed meanwhile, for what other threads read. Raises `Closed`."""
        with self._lock:
            if self._readers < 0:
                raise closed()
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                self._lock.notify_all()

    # -- jobs ----------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Jobs not admitted yet, in all contexts."""
        return self._arriving + sum(scheduler.waiting for _, scheduler in list(self._contexts.values()))

    @property
    def computed(self) -> int:
        """Tokens decoded so far, in the contexts that are open."""
        return sum(scheduler.computed for _, scheduler in list(self._contexts.values()))

    def submit(self, key: K, job: Job) -> None:
        """Queue a job; its context is opened on the worker thread if it is not there."""
        with self._lock:
            if job.owner not in self._users:
                raise closed()
            self._users[job.owner].add(key)
            found = self._contexts.get(key)
            if found is not None:
                job.decoder = found[0]
                self._worker.hand(found[1], job)
                return
            self._arriving += 1
        try:
            self._worker.post(lambda: self._open_for(key, job))
        except HanpacaError:
            with self._lock:
                self._arriving -= 1
            raise

    def _open_for(self, key: K, job: Job) -> None:
        with self._lock:
            self._arriving -= 1
        try:
            if job.owner not in self._users:
                raise closed()
            if key not in self._contexts:
                opened = self._open(key)
                with self._lock:
                    self._contexts[key] = opened
                self._worker.add(opened[1])
            job.decoder, scheduler = self._contexts[key]
            scheduler.submit(job)
        except Exception as error:
            known = error if isinstance(error, HanpacaError) else EngineFailure(f"The context failed: {error!r}.")
            job.fail(known)
            job.released()

    def _abandon(self, owner: object) -> None:
        """End an engine's jobs, and close the contexts that only it used."""
        for _, scheduler in self._contexts.values():
            scheduler.abandon(closed(), owner)
        with self._lock:
            gone = self._users.pop(owner, set()).difference(*self._users.values())
        for key in gone:
            self._close(key)

    def _close(self, key: K) -> None:
        """Close a context, if it is open and idle."""
        with self._lock:
            if key not in self._contexts or self._contexts[key][1].working:
                return
            context, scheduler = self._contexts.pop(key)
        self._worker.remove(scheduler)
        self._close_context(context)

    def _end(self) -> None:
        with self._lock:
            self._lock.wait_for(lambda: not self._readers)
            self._readers = -1
        for context, _ in self._contexts.values():
            self._close_context(context)
        self._contexts.clear()
        self._free()


class _Place:
    """Where the weights of one key are, or will be once they are loaded."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.users = 0
        self.loading = threading.Lock()
        self.shared: Any = None

    def leave(self) -> bool:
        """One user less; whether it was the last."""
        with _lock:
            self.users -= 1
            last = self.users == 0
            if last:
                del _places[self.key]
        return last


_places: dict[Hashable, _Place] = {}
_lock = threading.Lock()
"""Guards `_places` and the counts; held for moments only, and never while anything loads or is freed."""
_orphans: queue.SimpleQueue[tuple[int, Shared[Any, Any], object]] = queue.SimpleQueue()
_sweeper: threading.Thread | None = None


def _start_sweeper() -> None:
    global _sweeper
    with _lock:
        if _sweeper is None or not _sweeper.is_alive():  # a fork leaves threads behind
            _sweeper = threading.Thread(target=_sweep, name="hanpaca sweeper", daemon=True)
            _sweeper.start()


def _sweep() -> None:
    """Release what the garbage collector found."""
    while True:
        process, shared, owner = _orphans.get()
        if process == os.getpid():
            shared.release(owner)
        del shared, owner
