"""The llama.cpp engine on real files: SmolLM2 for meaning, small F32 models with random weights for exactness."""

import math
import threading

import numpy as np
import pytest
from llama_engines import GREEDY, ask, generate, open_engine, random_prompts

from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Request
from hanpaca.core.engines.generation import log_probability, log_softmax
from hanpaca.core.engines.jobs import Job
from hanpaca.core.sampling import Sampling


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


def test_on_quantized_weights_the_argmax_flips_only_where_the_margin_is_small(long_smol):
    """Q4 kernels differ by batch size; the bound is what their logits were seen to differ by."""
    bound = 1.7
    prompts = [ask(long_smol, f"Tell me about the number {n}.") for n in range(8)]
    forced = [[c for c in long_smol.tokenize("It is a number that people use every day to count things.")]] * 8
    runs = []
    for together in (False, True):
        jobs = [Forced(prompt, tokens) for prompt, tokens in zip(prompts, forced, strict=True)]
        for job in jobs:
            long_smol._enqueue(long_smol._key(len(job.tokens), job.max_new, 0), job)
            if not together:
                job.done.wait(60)
        for job in jobs:
            assert job.done.wait(60)
        runs.append([best for job in jobs for best in job.best])
    flips = [margin for (a, margin), (b, _) in zip(*runs, strict=True) if a != b]
    assert all(margin < bound for margin in flips), flips
    assert len(flips) < len(runs[0]) / 10


def test_a_real_model_answers(long_smol):
    (answer,) = generate(long_smol, ask(long_smol))
    assert "Paris" in answer.text
    assert answer.finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens == len(ask(long_smol))


def test_streaming_gives_the_same_text_and_one_last_delta(long_smol):
    deltas = list(streams.stream(long_smol, Request(ask(long_smol), GREEDY)))
    assert "".join(delta.text for delta in deltas) == generate(long_smol, ask(long_smol))[0].text
    assert [bool(delta.finish_reason) for delta in deltas].index(True) == len(deltas) - 1
    usage, limit = deltas[-1].usage, GREEDY.max_tokens
    assert usage and limit and usage.completion_tokens <= limit


def test_stop_strings_that_span_tokens_stop_and_never_show(long_smol):
    whole = generate(long_smol, ask(long_smol))[0].text
    stop = whole[9:16]
    (cut,) = generate(long_smol, ask(long_smol), sampling=GREEDY.replace(stop=(stop,)))
    assert cut.text == whole[:9] and cut.finish_reason == "stop"


def test_seeds_reproduce_and_differ(tiny):
    prompt, lively = [1, 270, 271], Sampling(max_tokens=30, temperature=1.5, top_k=0, top_p=1, repetition_penalty=1)
    texts = [generate(tiny, prompt, sampling=lively.replace(seed=seed))[0].text for seed in (7, 7, 8, None, None)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4


def test_logit_bias_forbids_and_forces(long_smol):
    first = long_smol.tokenize("Paris")[0]
    forced = GREEDY.replace(logit_bias={first: 1000.0}, max_tokens=3)
    assert generate(long_smol, ask(long_smol), sampling=forced)[0].text.startswith("ParisParis")
    usual = generate(long_smol, ask(long_smol), sampling=GREEDY.replace(max_tokens=1, logprobs=1))[0].logprobs[0].token
    banned = GREEDY.replace(logit_bias={usual: -math.inf}, max_tokens=1, logprobs=1)
    assert generate(long_smol, ask(long_smol), sampling=banned)[0].logprobs[0].token != usual


@pytest.mark.parametrize(
    "settings",
    [{"mirostat": 1}, {"mirostat": 2}, {"typical_p": 0.5}, {"min_p": 0.2, "top_k": 0}, {"presence_penalty": 1.0}],
)
def test_every_sampler_runs(long_smol, settings):
    sampling = Sampling(max_tokens=8, temperature=0.8, seed=1).replace(**settings)
    assert generate(long_smol, ask(long_smol), sampling=sampling)[0].text


def test_a_repetition_penalty_repeats_less(tiny):
    long = GREEDY.replace(max_tokens=100, logprobs=0)

    def distinct(penalty):
        answer = generate(tiny, [1, 270], sampling=long.replace(repetition_penalty=penalty))[0]
        return len({entry.token for entry in answer.logprobs})

    assert distinct(3.0) > distinct(1.0)


def test_logprobs_agree_with_score(long_smol):
    prompt = ask(long_smol)
    (answer,) = generate(long_smol, prompt, sampling=GREEDY.replace(logprobs=3))
    tokens = [entry.token for entry in answer.logprobs]
    scores = long_smol.score(prompt, [tokens])[0]
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


@pytest.mark.parametrize("kv_type", ["f32", "bf16", "q8_0", "q4_0"])
def test_every_cache_type_answers(smollm2, kv_type):
    engine = open_engine(smollm2, kv_type=kv_type, context=512)
    try:
        assert len(generate(engine, ask(engine))[0].text) > 10
    finally:
        engine.close()


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


def test_a_log_probability_equals_that_of_the_whole_softmax():
    logits = np.random.default_rng(1).standard_normal(50_000).astype(np.float32) * 8
    logits[7] = -np.inf
    whole = log_softmax(logits)
    assert log_probability(logits, 7) == whole[7] == -math.inf
    for token in (0, 49_999, int(logits.argmax())):
        assert log_probability(logits, token) == pytest.approx(whole[token], abs=1e-6)
