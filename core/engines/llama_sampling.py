"""Sampling settings → llama.cpp's sampler chain, one per sequence, and the constraint beside it.

The order is llama.cpp's own: logit bias, penalties, top-k, typical, top-p, min-p, temperature, draw. Where an answer
must match something, a token is drawn first and only checked; a rejected one is drawn again from the allowed ones.
"""

from __future__ import annotations

import ctypes
import math
import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sampling import Sampling
from .base import TokenLogprob
from .candidates import Candidates
from .constraints import Constraint
from .generation import told_of
from .llama_context import NativeContext
from .llama_native import NativeWeights

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Sampler:
    """Draws the tokens of one sequence. Free it on the thread that uses it."""

    def __init__(self, weights: NativeWeights, sampling: Sampling) -> None:
        self._L = weights.L
        self._weights = weights
        self._wanted = sampling.logprobs
        self.candidates = Candidates(sampling)
        self._constraint = Constraint.of(sampling, weights.tokens)
        self._forbidden = [token for token, bias in sampling.logit_bias.items() if bias == -math.inf]
        self._chain = self._make_chain(sampling)

    def draw(self, context: NativeContext, row: int) -> int:
        """The next token after `row` of the last pass."""
        if self._constraint is None:
            if not self.candidates.few:
                return int(self._L.llama_sampler_sample(self._chain, context.handle, row))
            certain = self.candidates.certain(context.logits(row))
            if certain is not None:
                return certain
        token = self._apply(context, row)
        if self._constraint is not None:
            token = self._held(self._constraint, context, row, token)
        self._L.llama_sampler_accept(self._chain, token)
        self.candidates.accept(token)
        return token

    def _held(self, constraint: Constraint, context: NativeContext, row: int, token: int) -> int:
        """`token` if it is allowed, else another one that is; the constraint goes on with it."""
        if not constraint.allows(token):
            token = self._apply(context, row, constraint.allowed(self._forbidden))
        constraint.accept(token)
        return token

    def logprob(self, context: NativeContext, row: int, token: int) -> TokenLogprob | None:
        """The token's log-probability and the likeliest alternatives, where the settings ask for them."""
        if self._wanted is None:
            return None
        return told_of(context.logits(row), token, self._wanted, self._weights.token_bytes)

    def free(self) -> None:
        if self._chain:
            self._L.llama_sampler_free(self._chain)
        self._chain = self._constraint = None

    def _make_chain(self, s: Sampling) -> Any:
        L, size = self._L, self._weights.size
        chain = L.llama_sampler_chain_init(L.llama_sampler_chain_default_params())

        def add(sampler: Any) -> None:
            L.llama_sampler_chain_add(chain, sampler)

        if s.logit_bias:
            biases = (L.llama_logit_bias * len(s.logit_bias))()
            for index, (token, bias) in enumerate(s.logit_bias.items()):
                biases[index].token, biases[index].bias = token, bias
            add(L.llama_sampler_init_logit_bias(size, len(s.logit_bias), biases))
        if s.penalty_last_n and (s.repetition_penalty != 1 or s.presence_penalty or s.frequency_penalty):
            last = s.penalty_last_n if s.penalty_last_n > 0 else 2**20
            add(
                L.llama_sampler_init_penalties(
                    size, last, s.repetition_penalty, s.frequency_penalty, s.presence_penalty
                )
            )
        if s.temperature == 0:
            add(L.llama_sampler_init_greedy())
            return chain
        seed = secrets.randbelow(2**32 - 1) if s.seed is None else s.seed
        if s.mirostat:
            add(L.llama_sampler_init_temp(s.temperature))
            if s.mirostat == 1:
                add(L.llama_sampler_init_mirostat(size, seed, s.mirostat_tau, s.mirostat_eta, 100))
            else:
                add(L.llama_sampler_init_mirostat_v2(seed, s.mirostat_tau, s.mirostat_eta))
            return chain
        if s.top_k:
            add(L.llama_sampler_init_top_k(s.top_k))
        if s.typical_p < 1:
            add(L.llama_sampler_init_typical(s.typical_p, 1))
        if s.top_p < 1:
            add(L.llama_sampler_init_top_p(s.top_p, 1))
        if s.min_p > 0:
            add(L.llama_sampler_init_min_p(s.min_p, 1))
        add(L.llama_sampler_init_temp(s.temperature))
        add(L.llama_sampler_init_dist(seed))
        return chain

    def _apply(self, context: NativeContext, row: int, allowed: NDArray[np.bool_] | None = None) -> int:
        """The chain's choice, of the tokens that are allowed."""
        logits = context.logits(row)
        ids = self.candidates.of(logits) if allowed is None else np.flatnonzero(allowed)
        if ids is None:
            ids = np.arange(logits.size)
        candidates = np.empty(ids.size, _CANDIDATE)
        candidates["id"], candidates["logit"], candidates["p"] = ids, logits[ids], 0
        array = self._array(candidates)
        self._L.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _array(self, candidates: NDArray[Any]) -> Any:
        array = self._L.llama_token_data_array()
        array.data = candidates.ctypes.data_as(self._L.llama_token_data_p)
        array.size, array.selected, array.sorted = candidates.size, -1, False
        return array
