"""One thread for one set of weights: it runs the contexts' schedulers in turn. Knows no model.

llama.cpp is not thread-safe and two decoding threads only contend, so every native call on a set of weights happens
here. Other threads hand in jobs (through a scheduler) and calls (through `call`).

The thread ends when it has had nothing to do for a moment, and the next job starts another. With it go the threads that
OpenMP made for it. Once a process has more of those than cores, as with a second model that only waits, GNU's OpenMP
lets all of them sleep wherever they wait for each other, hundreds of times in a pass: half of the speed
(`tests/benchmarks/LOG.md`).
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

IDLE = 0.1
"""Seconds without work after which the thread ends."""


class Worker:
    """A thread that steps its schedulers while any has work; soon after the last, there is none."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._wake = threading.Condition()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._schedulers: list[Scheduler] = []
        self._stopping = False
        self.pid = os.getpid()
        self._at_end: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        _alive.add(self)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the worker thread between two steps and give its result. Raises `Closed`."""
        if threading.current_thread() is self._thread:
            return function()
        return self._call_soon(function).result()

    def post(self, function: Callable[[], None]) -> None:
        """Run a function on the worker thread soon, without waiting. Raises `Closed`."""
        self._call_soon(function)

    def hand(self, scheduler: Scheduler, job: Job) -> None:
        """Queue a job with one of the schedulers. Raises `Closed`, and what `Scheduler.submit` raises."""
        with self._wake:  # whoever is let in here is ended by `_end` at the latest
            if self._stopping:
                raise closed()
            self._wake_up()  # first: where it fails, nothing has been queued
            scheduler.submit(job)

    def add(self, scheduler: Scheduler) -> None:
        """Take a scheduler into the turn. Called on the worker thread."""
        self._schedulers.append(scheduler)

    def remove(self, scheduler: Scheduler) -> None:
        """Take a scheduler out of the turn. Called on the worker thread."""
        self._schedulers.remove(scheduler)

    def stop(self, at_end: Callable[[], None] | None = None) -> None:
        """End all work with `Closed`, run `at_end` on the worker thread, and wait until that is done."""
        here, alone = threading.current_thread(), False
        with self._wake:
            if not self._stopping:
                self._stopping, self._at_end = True, at_end
            if not self._ended.is_set():
                try:
                    self._wake_up()
                except EngineFailure:
                    self._thread, alone = here, True
            thread = self._thread
        if alone:
            self._run()
        elif thread is not here:
            self._ended.wait()
            if thread is not None and thread.name == self._name:  # not another stopper, which did it by itself
                thread.join()

    def _wake_up(self) -> None:
        """With the lock held: have the thread look for work, or start one. Raises `EngineFailure` where none can be
        started: the interpreter is taken down, or the system allows no more."""
        if self._thread is not None:
            self._wake.notify()
            return
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            self._thread = thread
            thread.start()
        except BaseException as error:
            self._thread = None  # should it run all the same, it finds that it is not the one
            if isinstance(error, RuntimeError):
                raise EngineFailure(f"The model's thread cannot be started: {error}.") from error
            raise

    def _call_soon(self, function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._wake:
            if self._stopping:
                raise closed()
            self._wake_up()
            self._calls.append((function, future))
        return future

    def _has_work(self) -> bool:
        return bool(self._calls) or self._stopping or any(scheduler.busy for scheduler in self._schedulers)

    def _run(self) -> None:
        here = threading.current_thread()
        try:
            self._work(here)
        finally:
            with self._wake:
                if self._thread is here:  # it has ended its work, or a fault has ended it: the next one may start
                    self._thread = None
                    if self._stopping:
                        self._ended.set()

    def _work(self, here: threading.Thread) -> None:
        while True:
            with self._wake:
                if self._thread is not here:
                    return
                if not self._wake.wait_for(self._has_work, IDLE):
                    self._thread = None
                    return
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
