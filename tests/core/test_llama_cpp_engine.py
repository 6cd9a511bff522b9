"""The llama.cpp engine on real files: SmolLM2 for meaning, small F32 models with random weights for exactness."""

import asyncio
import gc
import math
import multiprocessing
import os
import pickle
import random
import threading
import time
from typing import Any

import gguf_files
import numpy as np
import psutil
import pytest

from hanpaca.core.catalog import resolve
from hanpaca.core.engines import shared as shared_module
from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Delta, Request, Usage
from hanpaca.core.engines.jobs import Job
from hanpaca.core.engines.llama_cpp import LlamaCppEngine, LlamaCppOptions
from hanpaca.core.engines.llama_cpp import open_engine as open_source
from hanpaca.core.engines.llama_native import NativeContext
from hanpaca.core.engines.shared import Shared
from hanpaca.core.errors import (
    BadInput,
    BadModelFile,
    Busy,
    Closed,
    ContextOverflow,
    EngineFailure,
    TimedOut,
    UnsupportedFeature,
)
from hanpaca.core.gguf_header import read, rope_of
from hanpaca.core.sampling import Sampling

GREEDY = Sampling(max_tokens=24, temperature=0, repetition_penalty=1.0)


def open_engine(path, **options):
    return LlamaCppEngine(path, rope_of(read(path)), LlamaCppOptions(**options))


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    return gguf_files.write_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", context=1024)


@pytest.fixture
def tiny(tiny_file):
    """F32 weights, F32 cache, no flash attention: results do not depend on what runs beside."""
    engine = open_engine(tiny_file, kv_type="f32", flash_attention=False, threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def smol(smollm2):
    engine = open_engine(smollm2)
    yield engine
    engine.close()


def ask(engine, question="What is the capital of France?"):
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return engine.tokenize(text, special=True)


def generate(engine, *prompts, sampling=GREEDY):
    return streams.complete(engine, [Request(list(prompt), sampling) for prompt in prompts])


def random_prompts(count, longest=300, seed=0):
    choose = random.Random(seed)
    return [[1, *(choose.randrange(3, 290) for _ in range(choose.randrange(1, longest)))] for _ in range(count)]


# -- the same answer, whatever runs beside --------------------------------------------------------------------------


def test_greedy_answers_are_the_same_alone_and_in_a_batch(tiny_file):
    prompts = random_prompts(12)
    prompts += [[*prompts[0][:200], 5, 6, 7], [*prompts[1], 9]]  # shared prefixes too
    alone = []
    for prompt in prompts:
        engine = open_engine(tiny_file, kv_type="f32", flash_attention=False, threads=1)
        alone += [completion.text for completion in generate(engine, prompt)]
        engine.close()
    engine = open_engine(tiny_file, kv_type="f32", flash_attention=False, threads=1)
    together = [completion.text for completion in generate(engine, *prompts)]
    engine.close()
    assert len(set(alone)) > 8, "the answers must differ for this test to mean something"
    assert together == alone


class Forced(Job):
    """Feeds given tokens and keeps the two likeliest tokens, with their logits, at each step."""

    def __init__(self, prompt, forced):
        super().__init__(prompt, len(forced), len(prompt) - 1)
        self.forced, self.best, self.done = forced, [], threading.Event()

    def output(self, row, position):
        logits = self.decoder.logits(row)
        second, first = np.argpartition(logits, -2)[-2:]
        if logits[second] > logits[first]:
            first, second = second, first
        self.best.append((int(first), float(logits[first] - logits[second])))
        at = position - self.first_output
        return self.forced[at] if at < len(self.forced) - 1 else None

    def fail(self, error):
        self.best = error

    def released(self):
        self.done.set()


def test_on_quantized_weights_the_argmax_flips_only_where_the_margin_is_small(smol):
    """Q4 kernels differ by batch size; the bound is what their logits were seen to differ by."""
    bound = 1.7
    prompts = [ask(smol, f"Tell me about the number {n}.") for n in range(8)]
    forced = [[c for c in smol.tokenize("It is a number that people use every day to count things.")]] * 8
    runs = []
    for together in (False, True):
        jobs = [Forced(prompt, tokens) for prompt, tokens in zip(prompts, forced, strict=True)]
        for job in jobs:
            smol._enqueue(smol._key(len(job.tokens), job.max_new, 0), job)
            if not together:
                job.done.wait(60)
        for job in jobs:
            assert job.done.wait(60)
        runs.append([best for job in jobs for best in job.best])
    flips = [margin for (a, margin), (b, _) in zip(*runs, strict=True) if a != b]
    assert all(margin < bound for margin in flips), flips
    assert len(flips) < len(runs[0]) / 10


# -- what comes out -------------------------------------------------------------------------------------------------


def test_a_real_model_answers(smol):
    (answer,) = generate(smol, ask(smol))
    assert "Paris" in answer.text
    assert answer.finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens == len(ask(smol))


def test_streaming_gives_the_same_text_and_one_last_delta(smol):
    deltas = list(streams.stream(smol, Request(ask(smol), GREEDY)))
    assert "".join(delta.text for delta in deltas) == generate(smol, ask(smol))[0].text
    assert [bool(delta.finish_reason) for delta in deltas].index(True) == len(deltas) - 1
    usage, limit = deltas[-1].usage, GREEDY.max_tokens
    assert usage and limit and usage.completion_tokens <= limit


def test_stop_strings_that_span_tokens_stop_and_never_show(smol):
    whole = generate(smol, ask(smol))[0].text
    stop = whole[9:16]
    (cut,) = generate(smol, ask(smol), sampling=GREEDY.replace(stop=(stop,)))
    assert cut.text == whole[:9] and cut.finish_reason == "stop"


def test_seeds_reproduce_and_differ(tiny):
    prompt, lively = [1, 270, 271], Sampling(max_tokens=30, temperature=1.5, top_k=0, top_p=1, repetition_penalty=1)
    texts = [generate(tiny, prompt, sampling=lively.replace(seed=seed))[0].text for seed in (7, 7, 8, None, None)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4


def test_logit_bias_forbids_and_forces(smol):
    first = smol.tokenize("Paris")[0]
    forced = GREEDY.replace(logit_bias={first: 1000.0}, max_tokens=3)
    assert generate(smol, ask(smol), sampling=forced)[0].text.startswith("ParisParis")
    usual = generate(smol, ask(smol), sampling=GREEDY.replace(max_tokens=1, logprobs=1))[0].logprobs[0].token
    banned = GREEDY.replace(logit_bias={usual: -math.inf}, max_tokens=1, logprobs=1)
    assert generate(smol, ask(smol), sampling=banned)[0].logprobs[0].token != usual


@pytest.mark.parametrize(
    "settings",
    [{"mirostat": 1}, {"mirostat": 2}, {"typical_p": 0.5}, {"min_p": 0.2, "top_k": 0}, {"presence_penalty": 1.0}],
)
def test_every_sampler_runs(smol, settings):
    sampling = Sampling(max_tokens=8, temperature=0.8, seed=1).replace(**settings)
    assert generate(smol, ask(smol), sampling=sampling)[0].text


def test_a_repetition_penalty_repeats_less(tiny):
    long = GREEDY.replace(max_tokens=100, logprobs=0)

    def distinct(penalty):
        answer = generate(tiny, [1, 270], sampling=long.replace(repetition_penalty=penalty))[0]
        return len({entry.token for entry in answer.logprobs})

    assert distinct(3.0) > distinct(1.0)


def test_logprobs_agree_with_score(smol):
    prompt = ask(smol)
    (answer,) = generate(smol, prompt, sampling=GREEDY.replace(logprobs=3))
    tokens = [entry.token for entry in answer.logprobs]
    scores = smol.score(prompt, [tokens])[0]
    assert [entry.logprob for entry in answer.logprobs] == pytest.approx(scores, abs=0.35)
    for entry in answer.logprobs:
        assert entry.top[0][2] == max(p for _, _, p in entry.top) and len(entry.top) == 3
        assert sum(math.exp(p) for _, _, p in entry.top) <= 1.0001


def test_score_is_exact_on_f32_and_computes_the_prompt_once(tiny):
    prompt, continuations = random_prompts(1, 400, seed=3)[0], [[5, 6, 7], [8], [], [5, 6, 9, 10] * 60]
    together = tiny.score(prompt, continuations)
    assert tiny.computed < len(prompt) + 60 + 240 + 40
    fresh = [tiny.score(prompt, [continuation])[0] for continuation in continuations]
    assert [len(scores) for scores in together] == [3, 1, 0, 240]
    for one, other in zip(together, fresh, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert all(score <= 0 for scores in together for score in scores)


def test_characters_come_whole(tiny):
    """Random weights draw byte tokens: every prefix of the stream must be valid text."""
    forced = {3 + byte: 8.0 for byte in "中文🙂é".encode()}
    sampling = Sampling(max_tokens=60, temperature=1.0, seed=3, logit_bias=forced, repetition_penalty=1.0)
    for delta in streams.stream(tiny, Request([1, 270], sampling)):
        delta.text.encode("utf-8")  # a lone surrogate would raise


# -- grammars -------------------------------------------------------------------------------------------------------


def test_a_json_schema_is_enforced(smol):
    import json

    schema = {
        "type": "object",
        "properties": {"城市": {"enum": ["北京", "巴黎"]}, "n": {"type": "integer"}, "on": {"type": "boolean"}},
        "required": ["城市", "n", "on"],
        "additionalProperties": False,
    }
    for temperature in (0, 1.5):
        sampling = Sampling(max_tokens=80, temperature=temperature, seed=5, json_schema=schema)
        (answer,) = generate(smol, ask(smol), sampling=sampling)
        value = json.loads(answer.text)
        assert value.keys() == {"城市", "n", "on"} and value["城市"] in ("北京", "巴黎")
        assert "\\u" not in answer.text
        assert answer.finish_reason == "stop"


def test_a_gbnf_grammar_is_enforced(smol):
    (answer,) = generate(smol, ask(smol), sampling=GREEDY.replace(grammar='root ::= ("yes" | "no") "!"'))
    assert answer.text in ("yes!", "no!")


def test_a_broken_grammar_is_refused_before_anything_runs(smol):
    with pytest.raises(BadInput, match="grammar"):
        generate(smol, ask(smol), sampling=GREEDY.replace(grammar="root ::= ("))


def test_a_conversation_that_was_put_away_goes_on_the_same(tiny_file):
    """Keys and values come back from host memory exactly, while other requests run."""
    prompt, answers = random_prompts(1, 600, seed=8)[0], []
    for interrupted in (False, True):
        engine = open_engine(tiny_file, kv_type="f32", flash_attention=False, threads=1)
        generate(engine, prompt)
        if interrupted:
            generate(engine, *random_prompts(3, 200, seed=9))
        (answer,) = generate(engine, [*prompt, 5, 6, 7])
        assert answer.usage.cached_tokens >= len(prompt) - 1
        answers.append(answer.text)
        engine.close()
    assert answers[0] == answers[1]


# -- limits and ends ------------------------------------------------------------------------------------------------


def test_what_native_code_would_die_of_is_refused(tiny):
    for tokens in ([], [-1], [10**6]):
        with pytest.raises(BadInput):
            tiny.submit(Request(tokens, GREEDY), lambda event: None)
    with pytest.raises(ContextOverflow, match="1024"):
        tiny.submit(Request([1] * 1020, GREEDY), lambda event: None)
    with pytest.raises(BadInput):
        tiny.submit(Request([1], GREEDY.replace(logit_bias={10**6: 1.0})), lambda event: None)


def endless(engine, tokens=4000):
    """Greedy, and never ending by itself."""
    return GREEDY.replace(max_tokens=tokens, logit_bias=dict.fromkeys(engine.vocabulary.ends, -1e9))


def wait_until_still(engine, seconds=5.0):
    """Tokens decoded, once that number no longer changes."""
    end = time.monotonic() + seconds
    before = -1
    while time.monotonic() < end:
        now = engine.computed
        if now == before:
            return now
        before = now
        time.sleep(0.15)
    raise AssertionError("the engine goes on")


def test_closing_a_stream_stops_the_work(smol):
    before = smol.computed
    stream = streams.stream(smol, Request(ask(smol), endless(smol)))
    next(stream)
    stream.close()
    assert wait_until_still(smol) - before < 2000


async def test_cancelling_an_await_stops_the_work(smol):
    before = smol.computed
    task = asyncio.create_task(streams.acomplete(smol, [Request(ask(smol), endless(smol))]))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(wait_until_still, smol) - before < 2000


async def test_the_loop_keeps_ticking_while_a_model_works(smol):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    start = time.monotonic()
    answer = [d async for d in streams.astream(smol, Request(ask(smol), endless(smol, 100)))]
    took = time.monotonic() - start
    ticker.cancel()
    assert answer[-1].finish_reason and ticks >= 25 * min(took, 1)


def test_a_timeout_ends_a_request_and_says_so(tiny):
    with pytest.raises(TimedOut, match="timeout"):
        generate(tiny, [1, 270], sampling=GREEDY.replace(max_tokens=900, timeout=0.05))


def test_closing_during_work_ends_every_caller(tiny_file):
    engine = open_engine(tiny_file)
    errors = []

    def caller():
        try:
            generate(engine, [1, 270], sampling=GREEDY.replace(max_tokens=1000))
        except Closed as error:
            errors.append(error)

    threads = [threading.Thread(target=caller) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    engine.close()
    engine.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(errors) >= 1
    with pytest.raises(Closed):
        generate(engine, [1, 270])


def test_closing_one_of_two_engines_over_a_file_leaves_the_other(tiny_file):
    first, second = open_engine(tiny_file), open_engine(tiny_file)
    assert first._shared is second._shared
    first.close()
    assert generate(second, [1, 270])[0].usage.completion_tokens
    with pytest.raises(Closed):
        first.tokenize("a")
    second.close()


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


def test_a_listener_that_raises_harms_nobody_else(tiny):
    def faulty(event):
        raise ValueError("in the listener")

    for _ in range(3):
        tiny.submit(Request([1, 270], GREEDY), faulty)
    assert generate(tiny, [1, 271])[0].finish_reason
    assert generate(tiny, [1, 272])[0].finish_reason


@pytest.mark.parametrize("attempt", range(10))
def test_closing_while_the_first_context_opens_ends_the_caller(tiny_file, attempt):
    engine = open_engine(tiny_file, cells=4096 + 256 * attempt)
    heard = threading.Event()
    engine.submit(Request([1, 270], GREEDY.replace(max_tokens=900)), lambda event: heard.set())
    engine.close()
    assert heard.wait(10), "nobody told the caller"


@pytest.mark.parametrize("grammar", ["", "  ", "root ::= " + "(" * 100_000, "root ::= a\n" + "a ::= b\n" * 6000])
def test_grammars_that_native_code_would_die_of_are_refused(tiny, grammar):
    with pytest.raises(BadInput, match="grammar"):
        generate(tiny, [1, 270], sampling=GREEDY.replace(grammar=grammar))


def test_a_grammar_that_leaves_no_token_says_so(tiny):
    blocked = {token: -math.inf for token in range(tiny.vocabulary.size) if tiny.token_bytes(token) in (b"a", b" a")}
    sampling = GREEDY.replace(grammar='root ::= "a"', logit_bias=blocked)
    with pytest.raises(UnsupportedFeature, match="leave no token"):
        generate(tiny, [1, 270], sampling=sampling)


def test_a_score_needs_a_prompt(tiny):
    with pytest.raises(BadInput, match="empty"):
        tiny.score([], [[5]])


def test_a_full_queue_says_busy(tiny_file):
    engine = open_engine(tiny_file, running=1, queue=2)
    handles = []
    with pytest.raises(Busy, match="waiting already"):
        for _ in range(8):
            handles.append(engine.submit(Request([1, 270], GREEDY.replace(max_tokens=900)), lambda event: None))
    engine.close()


def test_options_are_checked(smollm2):
    for options in ({"kv_type": "q3"}, {"kv_type": "q8_0", "flash_attention": False}, {"context": 0}, {"threads": "2"}):
        with pytest.raises(BadInput):
            LlamaCppOptions(**options)


@pytest.mark.parametrize("kv_type", ["f32", "bf16", "q8_0", "q4_0"])
def test_every_cache_type_answers(smollm2, kv_type):
    engine = open_engine(smollm2, kv_type=kv_type, context=512)
    try:
        assert len(generate(engine, ask(engine))[0].text) > 10
    finally:
        engine.close()


def test_a_loaded_engine_is_neither_pickled_nor_used_after_a_fork(tiny):
    with pytest.raises(EngineFailure, match="pickled"):
        pickle.dumps(tiny)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            generate(tiny, [1, 270])
            os.write(writer, b"worked")
        except EngineFailure as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    assert b"forked" in os.read(reader, 1000)
    os.waitpid(child, 0)
    os.close(reader)


def test_a_base_model_does_not_embed(smol):
    with pytest.raises(UnsupportedFeature, match="not an embedding model"):
        smol.embed([[1, 2, 3]])


# -- many users of one set of weights -------------------------------------------------------------------------------


def test_a_batch_may_be_longer_than_the_queue(tiny_file):
    engine = open_engine(tiny_file, queue=3, running=2, kv_type="f32", flash_attention=False, threads=1)
    prompts = random_prompts(20, 40)
    together = generate(engine, *prompts)
    assert [answer.text for answer in together] == [generate(engine, prompt)[0].text for prompt in prompts]
    answers = asyncio.run(streams.acomplete(engine, [Request(prompt, GREEDY) for prompt in prompts]))
    assert [answer.text for answer in answers] == [answer.text for answer in together]
    assert len(engine.score([1, 270], [prompt[1:] or [5] for prompt in prompts])) == 20
    engine.close()


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


def wait_until(true, seconds=20):
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


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
    wait_until(lambda: not shared._worker._thread.is_alive())
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
        return not shared._worker._thread.is_alive()

    wait_until(freed)


def test_a_closed_engine_hands_nothing_in(tiny_file):
    first, second = open_engine(tiny_file), open_engine(tiny_file)
    second.close()
    second._closed = False  # as seen by a thread that looked just before
    with pytest.raises(Closed):
        generate(second, [1, 270])
    assert len(first._shared._users) == 1
    first.close()


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


def test_a_listener_may_raise_anything(tiny):
    def leave(_):
        raise asyncio.CancelledError

    tiny.submit(Request([1, 270], GREEDY), leave)
    assert generate(tiny, [1, 271])


def test_memory_that_is_short_for_the_shelf_costs_only_the_shelf(tiny_file, monkeypatch):
    engine = open_engine(tiny_file)

    def no_memory(self, sequence):
        raise MemoryError

    monkeypatch.setattr(NativeContext, "save", no_memory)
    answers = [generate(engine, prompt)[0] for prompt in random_prompts(4, 400)]
    assert len(answers) == 4
    engine.close()


def test_token_ids_that_are_no_whole_numbers_are_refused(tiny):
    wrong: Any
    for wrong in (float("nan"), 2.7, "3", None):
        with pytest.raises(BadInput, match="whole numbers"):
            tiny.submit(Request([1, wrong], GREEDY), lambda _: None)


def test_files_without_a_tokenizer_are_refused(tmp_path):
    import gguf

    path = gguf_files.write_gguf(tmp_path / "whole.gguf")
    header = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(tmp_path / "none.gguf", "llama")
    for name, entry in header.fields.items():
        if not name.startswith(("GGUF.", "tokenizer.", "general.architecture")):
            writer.add_key_value(name, entry.contents(), entry.types[0])
    writer.add_tokenizer_model("none")
    for tensor in header.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BadModelFile, match="tokenizer"):
        open_engine(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    "options",
    [
        {"tensor_split": "3,1"}, {"tensor_split": []}, {"tensor_split": [-1.0]}, {"mmap": "yes"}, {"mlock": 1},
        {"flash_attention": None}, {"context": 2**40}, {"alpha": 0.5}, {"alpha": "most"}, {"gpu_layers": 1.5},
        {"running": 1000}, {"threads": True},
    ],
)  # fmt: skip
def test_options_of_the_wrong_kind_are_refused(options):
    with pytest.raises(BadInput, match=next(iter(options))):
        LlamaCppOptions(**options)


def test_adapters_are_checked(tiny_file, tmp_path):
    source = resolve(str(tiny_file))
    with pytest.raises(BadInput, match=r"no LoRA adapter .*none\.gguf"):
        open_source(source, {"loras": str(tmp_path / "none.gguf")})
    with pytest.raises(BadInput, match="loras must be"):
        open_source(source, {"loras": 3})


# -- load -----------------------------------------------------------------------------------------------------------


class Load:
    """Requests of every kind from many threads and one event loop, with the end that each must have."""

    def __init__(self, engine, seed):
        self.engine, self.random, self.lock = engine, random.Random(seed), threading.Lock()
        self.problems = []
        document = [1, *(self.random.randrange(3, 290) for _ in range(400))]
        self.prefixes = [document[:length] for length in (1, 5, 100, 400)]

    def plan(self):
        with self.lock:
            kind = self.random.choice(["whole", "whole", "cancel", "stop", "grammar", "oversize", "empty"])
            tail = [self.random.randrange(3, 290) for _ in range(self.random.choice([0, 1, 30, 500]))]
            tokens = (self.random.choice(self.prefixes) + tail)[:1000]
            return kind, tokens, self.random.randrange(1, 24), self.random.random()

    def check(self, kind, ok, *what):
        if not ok:
            self.problems.append((kind, *what))

    def one(self):
        kind, tokens, new, chance = self.plan()
        sampling = Sampling(max_tokens=new, temperature=chance, seed=int(chance * 1000))
        try:
            if kind == "oversize":
                tokens = [1] * 2000
            elif kind == "empty":
                tokens = []
            elif kind == "stop":
                sampling = sampling.replace(stop=("e", "the"))
            elif kind == "grammar":
                sampling = sampling.replace(grammar="root ::= [a-z]+")
            stream = streams.stream(self.engine, Request(tokens, sampling))
            if kind == "cancel":
                next(stream)
                stream.close()
                return
            deltas = list(stream)
            text, usage = "".join(delta.text for delta in deltas), deltas[-1].usage
            self.check(kind, kind in ("whole", "stop", "grammar"), "an answer where an error was due")
            assert usage
            self.check(kind, usage.completion_tokens <= new and usage.prompt_tokens == len(tokens), usage)
            expected = {"length"} if usage.completion_tokens == new else {"stop"}
            self.check(kind, deltas[-1].finish_reason in expected | {"stop"}, deltas[-1])
            self.check(kind, kind != "grammar" or text.isalpha() or not text, text)
            self.check(kind, kind != "stop" or "e" not in text, text)
        except ContextOverflow as error:
            self.check(kind, kind == "oversize", error)
        except BadInput as error:
            self.check(kind, kind == "empty", error)
        except StopIteration:
            self.check(kind, kind == "cancel", "ended early")

    def threads(self, count, each):
        def work():
            for _ in range(each):
                try:
                    self.one()
                except Exception as error:
                    self.problems.append(("unexpected", error))

        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)
            assert not thread.is_alive(), "a request does not end"


def test_two_thousand_mixed_requests(tiny_file):
    engine = open_engine(tiny_file, threads=1, running=24, prefix_memory=4 << 20)
    load, process = Load(engine, seed=1), psutil.Process()
    load.threads(16, 13)
    before = process.memory_info().rss
    load.threads(16, 100)

    async def at_once(count):
        requests = [Request(load.plan()[1], Sampling(max_tokens=4, seed=1)) for _ in range(count)]
        tasks = [asyncio.create_task(streams.acomplete(engine, [request])) for request in requests]
        await asyncio.sleep(0.02)
        for task in tasks[::5]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for _ in range(4):
        for result in asyncio.run(at_once(50)):
            assert isinstance(result, list | asyncio.CancelledError), result
    assert not load.problems, load.problems[:5]
    assert process.memory_info().rss <= before * 1.05
    engine.close()


def _child(path, queue):
    engine = open_engine(path)
    queue.put(generate(engine, [1, 270])[0].text)
    engine.close()


def test_a_spawned_process_loads_its_own(tiny, tiny_file):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=_child, args=(tiny_file, queue))
    child.start()
    assert isinstance(queue.get(), str)
    child.join(30)
    assert child.exitcode == 0
