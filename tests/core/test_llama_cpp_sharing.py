"""Many engines over one set of weights, and many callers of one engine: who frees what, and who waits."""

import asyncio
import gc
import threading
import time
from typing import Any

import pytest
from llama_engines import GREEDY, generate, open_engine, random_prompts, wait_until

from hanpaca.core.engines import shared as shared_module
from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Delta, Request, Usage
from hanpaca.core.engines.llama_context import NativeContext
from hanpaca.core.engines.llama_native import NativeWeights
from hanpaca.core.engines.shared import Shared
from hanpaca.core.errors import Busy, Closed


def test_closing_one_of_two_engines_over_a_file_leaves_the_other(tiny_file):
    first, second = open_engine(tiny_file), open_engine(tiny_file)
    assert first._shared is second._shared
    first.close()
    assert generate(second, [1, 270])[0].usage.completion_tokens
    with pytest.raises(Closed):
        first.tokenize("a")
    second.close()


def test_closing_an_engine_at_work_frees_its_context_though_others_use_the_weights(tiny_file):
    """Also where what was computed would still be put away."""
    first, second = open_engine(tiny_file, context=512), open_engine(tiny_file, context=1024)
    assert generate(first, [1, 270])[0].usage.completion_tokens
    stream = streams.stream(second, Request([1, *range(270, 290)] * 4, GREEDY.replace(max_tokens=300)))
    next(stream)
    assert len(first._shared._contexts) == 2
    second.close()
    wait_until(lambda: len(first._shared._contexts) == 1)
    first.close()


def no_memory(*_: object) -> int:
    raise MemoryError


def test_a_failed_copy_leaves_nothing_that_later_ones_take_along(tiny_file, monkeypatch):
    weights = NativeWeights(tiny_file)
    context = NativeContext(weights, cells=512, rope={}, sequences=4)
    tokens = [1, *range(270, 289)]
    for sequence in (0, 1):
        context.decode(tokens, range(20), [sequence] * 20, [False] * 20)
    good = context.save(0, 0, 20)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(NativeContext, "saved_size", no_memory)
        context.save(1, 0, 20)
    assert context.save(0, 0, 20).size == good.size
    pieces = [context.save(0, 0, 7), context.save(0, 7, 20)]
    context.trim(0, 0)
    assert context.restore(2, pieces)
    context.decode([5, 5], [20, 20], [1, 2], [True, True])
    assert context.logits(0) == pytest.approx(context.logits(1), abs=1e-4)
    context.close()
    weights.free()


def test_a_batch_may_be_longer_than_the_queue(tiny_file):
    engine = open_engine(tiny_file, queue=3, running=2, kv_type="f32", flash_attention=False, threads=1)
    prompts = random_prompts(20, 40)
    together = generate(engine, *prompts)
    assert [answer.text for answer in together] == [generate(engine, prompt)[0].text for prompt in prompts]
    answers = asyncio.run(streams.acomplete(engine, [Request(prompt, GREEDY) for prompt in prompts]))
    assert [answer.text for answer in answers] == [answer.text for answer in together]
    assert len(engine.score([1, 270], [prompt[1:] or [5] for prompt in prompts])) == 20
    engine.close()


def test_scores_wait_while_others_fill_the_queue(tiny, monkeypatch):
    """Also where the queue fills between a look and the handing in: only the first may be refused."""
    looks = iter([False, True, True, False, False])
    monkeypatch.setattr(type(tiny), "_full", property(lambda _: next(looks)))
    assert [len(scores) for scores in tiny.score([1, 270], [[5], [], [6, 7], [8]])] == [1, 0, 2, 1]
    monkeypatch.setattr(type(tiny), "_full", property(lambda _: True))
    with pytest.raises(Busy):
        tiny.score([1, 270], [[5], [6]])


class Crowded:
    """An engine's queue as others leave it: what `room` says, attempt by attempt, is taken and answered at once."""

    def __init__(self, room):
        self.room = iter(room)

    def submit(self, request, listener):
        if not next(self.room):
            raise Busy("1 request is waiting already.", "Try again in a moment.")
        listener(Delta("x", "stop", Usage(1, 1)))
        return self

    def cancel(self):
        pass


def test_a_batch_waits_while_others_fill_the_queue():
    """Only its first request may be refused; what was computed already is not thrown away."""
    requests = [Request([1], GREEDY)] * 4
    room = [True, True, False, False, False, True, False, True]
    crowded: Any = Crowded(room)
    assert len(streams.complete(crowded, requests)) == 4
    crowded = Crowded(room)
    assert len(asyncio.run(streams.acomplete(crowded, requests))) == 4
    crowded = Crowded([False])
    with pytest.raises(Busy):
        streams.complete(crowded, requests)


def test_contexts_that_only_a_closed_engine_used_are_closed(tiny_file):
    first, second = open_engine(tiny_file), open_engine(tiny_file, kv_type="f32")
    generate(first, [1, 270])
    generate(second, [1, 270])
    assert len(first._shared._contexts) == 2
    second.close()
    wait_until(lambda: len(first._shared._contexts) == 1)
    assert generate(first, [1, 270])
    first.close()


def test_tokenizing_while_another_thread_closes_ends_well(tiny_file):
    """Never in freed memory: a text, or `Closed`."""
    text = "the cat sat on 你好 " * 400
    for _ in range(5):
        engine = open_engine(tiny_file)
        ended: list[Exception] = []

        def tokenize(engine=engine, ended=ended):
            try:
                while True:
                    assert len(engine.tokenize(text)) > 100
                    engine.submit(Request([1, 270], GREEDY.replace(grammar='root ::= "a"*')), lambda _: None)
            except (Closed, Busy) as error:
                ended.append(error)

        threads = [threading.Thread(target=tokenize) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        engine.close()
        for thread in threads:
            thread.join(60)
        assert len(ended) == 4


def test_what_the_garbage_collector_finds_is_released_elsewhere(tiny_file):
    """Its finalizer may run anywhere, also inside `acquire`: it only says so, and a thread of its own frees."""
    engine = open_engine(tiny_file, threads=1, running=3)
    shared = engine._shared
    with shared_module._lock:  # as in the middle of an `acquire`
        del engine
        gc.collect()
    wait_until(lambda: shared._worker._ended.is_set())
    assert shared.native.handle is None


def test_one_file_that_loads_slowly_holds_up_no_other(tiny_file, monkeypatch):
    loading, go_on = threading.Event(), threading.Event()

    class Slow(Shared[str, Any]):
        def _load(self):
            loading.set()
            go_on.wait(60)

    thread = threading.Thread(target=lambda: Slow.acquire("slow", lambda: Slow("slow")).release(None))
    thread.start()
    loading.wait(60)
    engine = open_engine(tiny_file)
    assert generate(engine, [1, 270])
    engine.close()
    go_on.set()
    thread.join(60)


@pytest.mark.parametrize("used", [False, True])
def test_an_engine_that_nobody_holds_frees_its_weights(tiny_file, used):
    """Also after it has worked: a sleeping worker holds on to nothing."""
    engine = open_engine(tiny_file, threads=1, running=4)
    shared = engine._shared
    if used:
        generate(engine, [1, 270])
    del engine

    def freed():
        gc.collect()
        return shared._worker._ended.is_set()

    wait_until(freed)


@pytest.mark.parametrize("how", ["complete", "acomplete", "stream"])
def test_an_engine_that_nobody_holds_needs_no_garbage_collector(tiny_file, how):
    """Whose next full run may come much later: until then gigabytes would stay."""
    engine = open_engine(tiny_file, threads=1, running=5)
    shared = engine._shared
    requests = [Request([1, 270], GREEDY.replace(max_tokens=3))] * 3
    gc.disable()
    try:
        if how == "complete":
            streams.complete(engine, requests)
        elif how == "acomplete":
            asyncio.run(streams.acomplete(engine, requests))
        else:
            list(streams.stream(engine, requests[0]))
        del engine
        wait_until(lambda: shared._worker._ended.is_set())
    finally:
        gc.enable()


def test_a_closed_engine_hands_nothing_in(tiny_file):
    first, second = open_engine(tiny_file), open_engine(tiny_file)
    second.close()
    second._closed = False  # as seen by a thread that looked just before
    with pytest.raises(Closed):
        generate(second, [1, 270])
    assert len(first._shared._users) == 1
    first.close()
