"""The worker's thread: there while there is work, gone soon after, and back for the next."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_engines import generate, open_engine, wait_until

from hanpaca.core.engines import worker as worker_module
from hanpaca.core.engines.worker import Worker
from hanpaca.core.errors import Closed, EngineFailure


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(worker_module, "IDLE", 0.01)
    made = Worker("a worker")
    yield made
    made.stop()


def gone(worker: Worker) -> threading.Thread:
    """The worker's thread, which has ended for want of work."""
    thread = worker.call(threading.current_thread)
    wait_until(lambda: not thread.is_alive())
    return thread


def test_the_next_call_starts_another_thread(worker: Worker) -> None:
    first = gone(worker)
    assert worker.call(threading.current_thread) is not first
    assert worker.call(lambda: worker.call(lambda: 5)) == 5, "a call from the thread itself is made at once"


def test_no_call_is_lost_around_the_moment_the_thread_ends(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "IDLE", 0)
    busy = threading.Lock()

    def alone(number: int) -> int:
        assert busy.acquire(blocking=False), "two threads at once"
        busy.release()
        return number

    with ThreadPoolExecutor(8) as callers:
        assert list(callers.map(lambda n: worker.call(lambda: alone(n)), range(2000))) == list(range(2000))


def test_an_engine_answers_after_its_thread_has_gone(tiny_file, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "IDLE", 0.01)
    engine = open_engine(tiny_file, threads=1)
    answers = []
    for _ in range(3):
        answers.append([answer.text for answer in generate(engine, [1, 270])])
        gone(engine._shared._worker)
    assert answers[0] == answers[1] == answers[2]
    engine.close()
    with pytest.raises(Closed):
        generate(engine, [1, 270])


def test_what_is_to_be_freed_is_freed_on_a_thread_of_the_worker(worker: Worker) -> None:
    gone(worker)
    freed: list[str] = []
    worker.stop(lambda: freed.append(threading.current_thread().name))
    worker.stop(lambda: freed.append("twice"))
    assert freed == ["a worker"]
    for late in (worker.call, worker.post):
        with pytest.raises(Closed):
            late(lambda: None)


def test_where_no_thread_can_be_started_any_more_it_is_freed_all_the_same(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone(worker)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    ran: list[str] = []
    with pytest.raises(EngineFailure, match="thread cannot be started: can't create"):
        worker.call(lambda: ran.append("refused"))
    worker.stop(lambda: worker.call(lambda: ran.append("freed")))
    assert ran == ["freed"], "what was refused is not done later"
    with pytest.raises(Closed):
        worker.call(lambda: None)


def test_a_thread_that_a_fault_has_ended_is_replaced(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda told: None)

    class Broken:
        busy = True

        def step(self) -> None:
            raise ValueError

        def reset(self, error: Exception) -> None:
            self.busy = False
            raise MemoryError

        def abandon(self, error: Exception) -> None:
            pass

    scheduler: Any = Broken()
    first = worker.call(threading.current_thread)
    worker.call(lambda: worker.add(scheduler))
    wait_until(lambda: not first.is_alive())
    assert worker.call(threading.current_thread) is not first
    freed: list[int] = []
    worker.stop(lambda: freed.append(1))
    assert freed == [1]


def test_a_call_made_while_a_thread_is_being_made_starts_no_second(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a finalizer, which may run anywhere."""
    gone(worker)
    real = threading.Thread
    inner: list[Any] = []

    def make(*args: Any, **named: Any) -> threading.Thread:
        if not inner:
            inner.append(None)
            worker.post(lambda: inner.append(threading.current_thread()))
        return real(*args, **named)

    monkeypatch.setattr(threading, "Thread", make)
    outer = worker.call(threading.current_thread)
    wait_until(lambda: len(inner) == 2)
    assert inner[1] is outer


def test_stopped_from_within_it_ends_after_the_call(worker: Worker) -> None:
    freed: list[int] = []
    worker.call(lambda: worker.stop(lambda: freed.append(1)))
    wait_until(lambda: freed == [1])
