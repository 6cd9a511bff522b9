"""One thread for one set of weights: it runs the contexts' schedulers in turn. Knows no model.

llama.cpp is not thread-safe and two decoding threads only contend, so every native call on a set of weights happens
here. Other threads hand in jobs (through a scheduler) and calls (through `call`).
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import Closed, EngineFailure, HanpacaError
from .batching import Scheduler
from .jobs import Job

T = TypeVar("T")


class Worker:
    """A thread that steps its schedulers while any has work, and sleeps otherwise."""

    def __init__(self, name: str) -> None:
        self._wake = threading.Condition()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._schedulers: list[Scheduler] = []
        self._stopping = False
        self.pid = os.getpid()
        self._at_end: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        _alive.add(self)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the worker thread between two steps and give its result. Raises `Closed`."""
        if threading.current_thread() is self._thread:
            return function()
        future: Future[T] = Future()
        with self._wake:
            if self._stopping:
                raise closed()
            self._calls.append((function, future))
            self._wake.notify()
        return future.result()

    def post(self, function: Callable[[], None]) -> None:
        """Run a function on the worker thread soon, without waiting. Raises `Closed`."""
        with self._wake:
            if self._stopping:
                raise closed()
            self._calls.append((function, Future()))
            self._wake.notify()

    def hand(self, scheduler: Scheduler, job: Job) -> None:
        """Queue a job with one of the schedulers. Raises `Closed`, and what `Scheduler.submit` raises."""
        with self._wake:  # whoever is let in here is ended by `_end` at the latest
            if self._stopping:
                raise closed()
            scheduler.submit(job)
            self._wake.notify()

    def add(self, scheduler: Scheduler) -> None:
        """Take a scheduler into the turn. Called on the worker thread."""
        self._schedulers.append(scheduler)

    def remove(self, scheduler: Scheduler) -> None:
        """Take a scheduler out of the turn. Called on the worker thread."""
        self._schedulers.remove(scheduler)

    def stop(self, at_end: Callable[[], None] | None = None) -> None:
        """End all work with `Closed`, run `at_end` on the worker thread, and wait for the thread to end."""
        with self._wake:
            if not self._stopping:
                self._stopping = True
                self._at_end = at_end
                self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._calls or self._stopping or any(s.busy for s in self._schedulers)):
                    self._wake.wait()
                stopping = self._stopping
            self._run_calls()
            if stopping:
                self._end()
                return
            for scheduler in self._schedulers:
                if scheduler.busy:
                    self._step(scheduler)

    def _run_calls(self) -> None:
        """In a frame of its own: while the thread sleeps, it holds on to nobody's engine."""
        with self._wake:
            calls = list(self._calls)
            self._calls.clear()
        for function, future in calls:
            _fulfil(function, future)

    def _end(self) -> None:
        """After the last call: what it queued is ended too, then the memory goes."""
        for scheduler in self._schedulers:
            scheduler.abandon(closed())
        if self._at_end is not None:
            _fulfil(self._at_end, Future())
        _alive.discard(self)

    @staticmethod
    def _step(scheduler: Scheduler) -> None:
        try:
            scheduler.step()
        except BaseException as error:  # a fault of ours must reach the callers, not leave them waiting
            known = error if isinstance(error, HanpacaError) else EngineFailure(f"The engine failed: {error!r}.")
            scheduler.reset(known)


def _fulfil(function: Callable[[], Any], future: Future[Any]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)


def closed() -> Closed:
    """What callers hear once a model is closed."""
    return Closed("The model is closed.", "Load it again with hanpaca.load().")


_alive: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Native code must not run while the interpreter is taken down."""
    for worker in list(_alive):
        if worker.pid == os.getpid():  # a fork leaves threads behind
            worker.stop()
