"""Sampling in numpy against llama.cpp's own sampler chain: the same candidates with the same probabilities."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from constrained import BYTES, END
from hypothesis import given, settings
from hypothesis import strategies as st

from hanpaca.core.engines.constraints import Constraint
from hanpaca.core.engines.torch_sampling import NumpySampler, candidates
from hanpaca.core.errors import UnsupportedFeature
from hanpaca.core.sampling import Sampling

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
OPEN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}


class Row:
    """Logits as a decoder gives them."""

    def __init__(self, logits: Any) -> None:
        self._logits = np.asarray(logits, np.float32)

    def logits(self, row: int) -> np.ndarray:
        return self._logits


def sampler(**changes: Any) -> NumpySampler:
    return NumpySampler(Sampling(**(OPEN | changes)), lambda token: b"%d" % token)


def native_candidates(logits: np.ndarray, s: Sampling) -> dict[int, float]:
    """Token → probability after llama.cpp's own filters, in its order, and a softmax."""
    import llama_cpp as L

    chain = L.llama_sampler_chain_init(L.llama_sampler_chain_default_params())
    if s.top_k:
        L.llama_sampler_chain_add(chain, L.llama_sampler_init_top_k(s.top_k))
    if s.typical_p < 1:
        L.llama_sampler_chain_add(chain, L.llama_sampler_init_typical(s.typical_p, 1))
    if s.top_p < 1:
        L.llama_sampler_chain_add(chain, L.llama_sampler_init_top_p(s.top_p, 1))
    if s.min_p > 0:
        L.llama_sampler_chain_add(chain, L.llama_sampler_init_min_p(s.min_p, 1))
    L.llama_sampler_chain_add(chain, L.llama_sampler_init_temp(s.temperature))
    table = np.zeros(logits.size, CANDIDATE)
    table["id"], table["logit"] = np.arange(logits.size), logits
    array: Any = L.llama_token_data_array()
    array.data = table.ctypes.data_as(L.llama_token_data_p)
    array.size, array.selected, array.sorted = table.size, -1, False
    L.llama_sampler_apply(chain, ctypes.byref(array))
    kept: dict[int, float] = {array.data[i].id: array.data[i].logit for i in range(array.size)}
    L.llama_sampler_free(chain)
    largest = max(kept.values())
    raised = {token: float(np.exp(logit - largest)) for token, logit in kept.items()}
    return {token: value / sum(raised.values()) for token, value in raised.items()}


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    top_k=st.sampled_from([0, 1, 5, 40, 1000]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    typical_p=st.sampled_from([0.2, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    temperature=st.sampled_from([0.2, 1.0, 3.0]),
)
def test_candidates_equal_llama_cpps(seed: int, **changes: Any) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, 300).astype(np.float32)
    s = Sampling(**(OPEN | changes))
    tokens, probabilities = candidates(logits.astype(np.float64), s)
    found = dict(zip(tokens.tolist(), probabilities.tolist(), strict=True))
    expected = native_candidates(logits, s)
    assert found.keys() == expected.keys()
    for token, probability in expected.items():
        assert found[token] == pytest.approx(probability, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("last", [0, 2, 64, -1])
def test_penalties_equal_llama_cpps(last: int) -> None:
    import llama_cpp as L

    logits = np.array([3.0, -2.0, 2.9, 0.5, 2.8], np.float32)
    values = {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.2, "penalty_last_n": last}
    mine = sampler(temperature=0, **values)
    said = [0, 0, 1, 2]
    mine._said = list(said)
    found = logits.astype(np.float64)
    mine._adjust(found)
    penalties = L.llama_sampler_init_penalties(5, 2**20 if last < 0 else last, 1.3, 0.4, 0.2)
    for token in said:
        L.llama_sampler_accept(penalties, token)
    table = np.zeros(5, CANDIDATE)
    table["id"], table["logit"] = np.arange(5), logits
    array: Any = L.llama_token_data_array()
    array.data, array.size = table.ctypes.data_as(L.llama_token_data_p), 5
    array.selected, array.sorted = -1, False
    L.llama_sampler_apply(penalties, ctypes.byref(array))
    L.llama_sampler_free(penalties)
    np.testing.assert_allclose(found, table["logit"], rtol=1e-6)


def test_greedy_takes_the_likeliest() -> None:
    assert sampler(temperature=0).draw(Row([1, 5, 3]), 0) == 1


def test_bias_forbids_and_prefers() -> None:
    assert sampler(temperature=0, logit_bias={1: -np.inf}).draw(Row([1, 5, 3]), 0) == 2
    assert sampler(temperature=0, logit_bias={0: 10.0}).draw(Row([1, 5, 3]), 0) == 0
    drawn = {sampler(logit_bias={1: -np.inf}, seed=seed).draw(Row([1, 5, 1]), 0) for seed in range(40)}
    assert drawn == {0, 2}


def test_a_seed_repeats_its_draws_and_others_differ() -> None:
    def draws(seed: int | None) -> list[int]:
        one = sampler(seed=seed)
        return [one.draw(Row(np.zeros(1000)), 0) for _ in range(20)]

    assert draws(7) == draws(7)
    assert len({tuple(draws(seed)) for seed in (7, 8, 9, None, None)}) == 5


def test_draws_follow_the_probabilities() -> None:
    one = sampler(seed=1)
    counts = np.bincount([one.draw(Row(np.log([0.5, 0.3, 0.2])), 0) for _ in range(20_000)]) / 20_000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.2], atol=0.015)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [2.0, 5.0])
def test_mirostat_holds_its_surprise(version: int, tau: float) -> None:
    """Over many draws from a Zipf-like row the mean surprise in bits comes near the target."""
    row = -np.log(np.arange(1, 3001)) * 1.1
    probabilities = np.exp(row) / np.exp(row).sum()
    one = sampler(mirostat=version, mirostat_tau=tau, mirostat_eta=0.1, seed=3)
    drawn = [one.draw(Row(row), 0) for _ in range(600)][200:]
    if version == 2:
        surprise = float(np.mean(-np.log2(probabilities[drawn])))
        assert surprise == pytest.approx(tau, abs=1.5)
    assert len(set(drawn)) > 2
    wider = sampler(mirostat=version, mirostat_tau=tau + 3, mirostat_eta=0.1, seed=3)
    assert len({wider.draw(Row(row), 0) for _ in range(600)}) > len(set(drawn))


def test_logprobs_are_those_of_the_model() -> None:
    one = sampler(temperature=0, logprobs=2, logit_bias={1: -np.inf})
    row = Row(np.log([0.5, 0.3, 0.2]))
    found = one.logprob(row, 0, 2)
    assert found is not None
    assert (found.token, found.text) == (2, b"2")
    assert found.logprob == pytest.approx(np.log(0.2))
    assert [token for token, _, _ in found.top] == [0, 1]
    assert [value for _, _, value in found.top] == pytest.approx(np.log([0.5, 0.3]))
    assert sampler().logprob(row, 0, 2) is None


def test_only_what_matches_is_drawn() -> None:
    bias = {ord("y"): -np.inf, ord("n"): 1.0}
    settings = Sampling(top_k=0, grammar="root ::= [xyn]{3}", logit_bias=bias, temperature=3.0, seed=1)
    one = NumpySampler(settings, BYTES.piece, Constraint.of(settings, BYTES))
    row = Row(np.random.default_rng(0).normal(size=END + 1))
    drawn = [one.draw(row, 0) for _ in range(4)]
    assert {*drawn[:3]} <= {ord("x"), ord("n")} and drawn[3] == END
    settings = settings.replace(logit_bias={ord(letter): -np.inf for letter in "xyn"})
    with pytest.raises(UnsupportedFeature, match="leave no token"):
        NumpySampler(settings, BYTES.piece, Constraint.of(settings, BYTES)).draw(row, 0)
