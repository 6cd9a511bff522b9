"""The few candidates of a draw: what is drawn from them is what would have been drawn from all."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanpaca.core.engines.candidates import Candidates, likeliest
from hanpaca.core.engines.llama_context import NativeContext
from hanpaca.core.engines.llama_native import NativeWeights
from hanpaca.core.engines.llama_sampling import Sampler
from hanpaca.core.sampling import Sampling

ROWS = 24


@given(st.integers(1, 60), st.integers(64, 9000), st.integers(0, 2**32 - 1), st.sampled_from([2, 50, 10**6]))
def test_the_largest_are_among_the_likeliest(count, size, seed, distinct):
    logits = np.random.default_rng(seed).integers(0, distinct, size).astype(np.float32)
    ids = likeliest(logits, count)
    if ids is None:
        assert count >= size // 64
        return
    assert list(ids) == sorted(set(ids.tolist()))
    rest = np.delete(logits, ids)
    assert ids.size >= count and (not rest.size or rest.max() < np.sort(logits)[-count])


def test_logits_that_are_no_numbers_leave_the_choice_to_the_chain():
    assert likeliest(np.full(12_800, np.nan, np.float32), 40) is None


@pytest.fixture(scope="module")
def context(smollm2: Path):
    """A context after one pass with `ROWS` rows of logits."""
    weights = NativeWeights(smollm2)
    opened = NativeContext(weights, cells=256, rope={}, sequences=4)
    opened.decode([1, *range(500, 499 + ROWS)], range(ROWS), [0] * ROWS, [True] * ROWS)
    yield opened
    opened.close()
    weights.free()


def settings(seed: int, size: int) -> Sampling:
    """Some settings, of which about half change logits of tokens that matter."""
    choose = random.Random(seed)
    some = lambda *values: choose.choice(values)  # noqa: E731
    return Sampling(
        temperature=some(0, 0.2, 1.0, 3.0), top_k=some(1, 5, 40, 200), top_p=some(0.5, 0.9, 1.0), min_p=some(0, 0.05),
        typical_p=some(0.7, 1.0), repetition_penalty=some(1.0, 1.3, 0.8), presence_penalty=some(0, 1.5, -2.0),
        frequency_penalty=some(0, 0.5, -1.0), penalty_last_n=some(0, 4, 64), seed=seed,
        logit_bias={choose.randrange(size): some(-1e9, 2.0, 15.0) for _ in range(some(0, 3, 50))},
    )  # fmt: skip


def drawn(sampler: Sampler, context: NativeContext, seed: int) -> list[int]:
    """Tokens after rows in an order of its own, few of them, so that what was drawn comes up again."""
    choose = random.Random(seed)
    rows = [choose.randrange(ROWS) for _ in range(3)]
    try:
        return [sampler.draw(context, choose.choice(rows)) for _ in range(40)]
    finally:
        sampler.free()


def test_draws_are_the_same_as_from_all_tokens(context):
    weights = context.weights
    for seed in range(150):
        few, all_of_them = (Sampler(weights, settings(seed, weights.size)) for _ in range(2))
        assert few.candidates.few
        all_of_them.candidates.few = False
        assert drawn(few, context, seed) == drawn(all_of_them, context, seed), settings(seed, weights.size)


def test_greedy_draws_are_the_chain_s_whatever_the_bias(context):
    weights = context.weights
    order = np.argsort(context.logits(0))[::-1]
    top, second, low = (int(token) for token in (order[0], order[1], order[-1]))
    for bias in (
        {},
        {low: -5.0},
        {top: -1e9},
        {low: 1e9},
        {top: -1e9, second: -0.5},
        {top: 0.0},
        {second: 0.5, top: -1},
    ):
        settings = Sampling(temperature=0, repetition_penalty=1.0, logit_bias=bias)
        few, whole = (Sampler(weights, settings) for _ in range(2))
        whole.candidates.few = False
        assert drawn(few, context, 0) == drawn(whole, context, 0), bias
        certain = few.candidates.certain(context.logits(0))
        assert certain == (top if max(bias.values(), default=0) <= 0 and top not in bias else None), bias


def test_penalties_and_temperature_leave_nothing_certain():
    logits = np.arange(100, dtype=np.float32)
    assert Candidates(Sampling(temperature=0, repetition_penalty=1.0)).certain(logits) == 99
    for changes in (
        {"repetition_penalty": 1.1},
        {"presence_penalty": 1.0},
        {"frequency_penalty": 1.0},
        {"temperature": 1},
    ):
        settings = Sampling(temperature=0, repetition_penalty=1.0).replace(**changes)
        assert Candidates(settings).certain(logits) is None, changes
    logits[3] = np.nan
    assert Candidates(Sampling(temperature=0, repetition_penalty=1.0)).certain(logits) is None


MANY = {"logit_bias": dict.fromkeys(range(600), 1.0)}


@pytest.mark.parametrize("changes", [{"top_k": 0}, {"top_k": 600}, {"mirostat": 2}, {"penalty_last_n": -1}, MANY])
def test_settings_that_look_at_many_tokens_keep_all(context, changes):
    sampler = Sampler(context.weights, Sampling(seed=1, **changes))
    assert not sampler.candidates.few
    assert len(drawn(sampler, context, 1)) == 40
