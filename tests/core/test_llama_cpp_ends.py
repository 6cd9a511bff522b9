"""How requests end in the llama.cpp engine: cancelled, expired, closed, failed, or with a listener that raises."""

import asyncio
import threading
import time
from typing import Any, cast

import pytest
from llama_engines import GREEDY, ask, endless, generate, open_engine, random_prompts, wait_until, wait_until_still

import hanpaca
from hanpaca.core import Model
from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Delta, Request
from hanpaca.core.engines.llama_context import NativeContext
from hanpaca.core.errors import Closed, EngineFailure, TimedOut


def test_closing_a_stream_stops_the_work(long_smol):
    before = long_smol.computed
    stream = streams.stream(long_smol, Request(ask(long_smol), endless(long_smol)))
    next(stream)
    stream.close()
    assert wait_until_still(long_smol) - before < 2000


async def test_cancelling_an_await_stops_the_work(long_smol):
    before = long_smol.computed
    task = asyncio.create_task(streams.acomplete(long_smol, [Request(ask(long_smol), endless(long_smol))]))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(wait_until_still, long_smol) - before < 2000


async def test_the_loop_keeps_ticking_while_a_model_works(long_smol):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    start = time.monotonic()
    answer = [d async for d in streams.astream(long_smol, Request(ask(long_smol), endless(long_smol, 100)))]
    took = time.monotonic() - start
    ticker.cancel()
    assert answer[-1].finish_reason and ticks >= 25 * min(took, 1)


async def test_long_texts_and_grammars_are_read_on_other_threads(tiny_file, monkeypatch):
    model, here = hanpaca.load(tiny_file, running=2), threading.get_ident()
    seen: dict[str, int] = {}
    monkeypatch.setattr(Model, "prompt_tokens", lambda self, text: seen.update(tokens=threading.get_ident()) or [1])
    sampling = GREEDY.replace(max_tokens=2)
    with model:
        real = model.engine.submit
        monkeypatch.setattr(
            model.engine, "submit", lambda *given: seen.update(submit=threading.get_ident()) or real(*given)
        )
        for ask_it in (
            lambda: model.acomplete("a", sampling),
            lambda: model.acomplete_batch(["a", "b"], sampling),
            lambda: anext(model.astream_complete("a", sampling)),
        ):
            seen.clear()
            await ask_it()
            assert seen.keys() == {"tokens", "submit"} and here not in seen.values()


async def test_a_task_that_is_cancelled_while_its_request_is_handed_in_leaves_no_work(long_smol, monkeypatch):
    """Compiling a large grammar takes seconds; the request is queued although nobody waits for it any more."""
    go_on, begun, real, handles = threading.Event(), threading.Event(), long_smol.submit, []

    def slow(*given):
        begun.set()
        go_on.wait()
        handles.append(real(*given))
        return handles[-1]

    monkeypatch.setattr(long_smol, "submit", slow)
    request = Request(ask(long_smol), endless(long_smol))
    for waiting in (streams.acomplete(long_smol, [request]), anext(streams.astream(long_smol, request))):
        before = long_smol.computed
        task = asyncio.ensure_future(waiting)
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await asyncio.to_thread(wait_until_still, long_smol)
        assert handles and long_smol.computed - before < 2000
        go_on.clear()
        begun.clear()
        handles.clear()


def test_a_timeout_ends_a_request_and_says_so(tiny):
    with pytest.raises(TimedOut, match="timeout"):
        generate(tiny, [1, 270], sampling=GREEDY.replace(max_tokens=900, timeout=0.05))


def test_closing_during_work_ends_every_caller(tiny_file, monkeypatch):
    """The first pass is held until `close` has begun, so that all eight are under way."""
    engine, go_on, errors = open_engine(tiny_file, running=5), threading.Event(), []
    worker, real = engine._shared._worker, NativeContext.decode

    def held(self, *batch):
        assert go_on.wait(60)
        real(self, *batch)

    def caller():
        try:
            generate(engine, [1, 270], sampling=endless(engine, 900))
        except Closed as error:
            errors.append(error)

    def under_way():
        schedulers = [scheduler for _, scheduler in engine._shared._contexts.values()]
        return engine._weights.waiting + sum(scheduler.running for scheduler in schedulers) == 8

    monkeypatch.setattr(NativeContext, "decode", held)
    threads = [threading.Thread(target=caller) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(under_way, 60)
    closing = threading.Thread(target=engine.close)
    closing.start()
    wait_until(lambda: worker._stopping, 60)
    go_on.set()
    for thread in (*threads, closing):
        thread.join(60)
        assert not thread.is_alive()
    assert len(errors) == 8, "whether they ran or waited"
    engine.close()
    with pytest.raises(Closed):
        generate(engine, [1, 270])


def test_after_a_cancel_the_step_under_way_is_the_last(tiny, monkeypatch):
    """Also in the middle of a prompt: no further chunk of it is computed."""
    real, passes, go_on, begun = NativeContext.decode, [], threading.Event(), threading.Event()

    def held(self, *batch):
        passes.append(len(batch[0]))
        begun.set()
        assert go_on.wait(60)
        real(self, *batch)

    monkeypatch.setattr(NativeContext, "decode", held)
    handle = tiny.submit(Request([1] * 900, GREEDY), lambda _: None)
    assert begun.wait(60)
    handle.cancel()
    go_on.set()
    wait_until(lambda: not any(scheduler.busy for _, scheduler in tiny._shared._contexts.values()), 60)
    assert len(passes) == 1 and passes[0] < 900


@pytest.mark.parametrize("attempt", range(10))
def test_closing_while_the_first_context_opens_ends_the_caller(tiny_file, attempt):
    engine = open_engine(tiny_file, cells=4096 + 256 * attempt)
    heard = threading.Event()
    engine.submit(Request([1, 270], GREEDY.replace(max_tokens=900)), lambda event: heard.set())
    engine.close()
    assert heard.wait(10), "nobody told the caller"


def test_a_failing_pass_fails_only_its_requests(tiny, monkeypatch):
    real, fails = NativeContext.decode, [True]

    def sometimes(self, *batch):
        if fails and len(batch[0]) > 20:
            fails.pop()
            raise EngineFailure("simulated")
        real(self, *batch)

    monkeypatch.setattr(NativeContext, "decode", sometimes)
    with pytest.raises(EngineFailure, match="simulated"):
        generate(tiny, [1] * 40)
    assert generate(tiny, [1, 270])[0].finish_reason


def test_each_caller_hears_an_error_of_its_own(tiny, monkeypatch):
    def fail(self, *_):
        raise EngineFailure("The pass failed.", "Try again.")

    monkeypatch.setattr(NativeContext, "decode", fail)
    heard: list[Delta | BaseException] = []
    for prompt in random_prompts(4, 20):
        tiny.submit(Request(prompt, GREEDY), heard.append)
    wait_until(lambda: len(heard) == 4)
    assert len({id(error) for error in heard}) == 4 and {str(error) for error in heard} == {
        "The pass failed. Try again."
    }


def test_a_listener_that_raises_harms_nobody_else(tiny):
    def faulty(event):
        raise ValueError("in the listener")

    for _ in range(3):
        tiny.submit(Request([1, 270], GREEDY), faulty)
    assert generate(tiny, [1, 271])[0].finish_reason
    assert generate(tiny, [1, 272])[0].finish_reason


def test_a_listener_may_raise_anything(tiny):
    def leave(_):
        raise asyncio.CancelledError

    tiny.submit(Request([1, 270], GREEDY), leave)
    assert generate(tiny, [1, 271])


def test_memory_that_is_short_for_the_shelf_costs_only_the_shelf(tiny_file, monkeypatch):
    engine = open_engine(tiny_file)

    def no_memory(self, sequence, start, stop):
        raise MemoryError

    monkeypatch.setattr(NativeContext, "save", no_memory)
    answers = [generate(engine, prompt)[0] for prompt in random_prompts(4, 400)]
    assert len(answers) == 4
    engine.close()


@pytest.mark.parametrize("how", ["acomplete", "astream"])
def test_a_loop_that_ends_while_a_request_is_handed_in_leaves_no_work(how):
    """`asyncio.run` cancels what it still waits for, also the thread's own future."""
    entered, go_on, cancelled = threading.Event(), threading.Event(), threading.Event()

    class Held:
        cancel = cancelled.set

    class Engine:
        def submit(self, request, listener):
            entered.set()
            go_on.wait(20)
            return Held

    async def leave():
        engine, request = cast(Any, Engine()), cast(Any, None)
        work = streams.acomplete(engine, [request]) if how == "acomplete" else anext(streams.astream(engine, request))
        task = asyncio.ensure_future(work)
        while not entered.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        asyncio.get_running_loop().call_later(0.2, go_on.set)

    asyncio.run(leave())
    assert cancelled.wait(20)
