"""Sampling settings → llama.cpp's sampler chain, one per sequence, and the grammar beside it.

The order is llama.cpp's own: logit bias, penalties, top-k, typical, top-p, min-p, temperature, draw. A grammar over
the whole vocabulary costs about 6 ms a token, so the token is drawn first and only checked; a rejected one is drawn
again from the allowed ones.
"""

from __future__ import annotations

import codecs
import ctypes
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, UnsupportedFeature
from ..sampling import Sampling
from . import grammar as grammars
from .base import TokenLogprob
from .candidates import Candidates
from .generation import told_of
from .json_schema import gbnf_of_schema
from .llama_context import NativeContext
from .llama_native import NativeWeights, native_errors

_TRIES = 64
"""Tokens that the grammar lets pass and that would break a character, before giving up."""
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Sampler:
    """Draws the tokens of one sequence. Free it on the thread that uses it."""

    def __init__(self, weights: NativeWeights, sampling: Sampling) -> None:
        self._L = weights.L
        self._weights = weights
        self._wanted = sampling.logprobs
        self.candidates = Candidates(sampling)
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._chain = self._grammar = None
        try:
            self._grammar = self._make_grammar(sampling)
            self._chain = self._make_chain(sampling)
        except BaseException:
            self.free()
            raise

    def draw(self, context: NativeContext, row: int) -> int:
        """The next token after `row` of the last pass."""
        if self._grammar is None:
            if not self.candidates.few:
                return int(self._L.llama_sampler_sample(self._chain, context.handle, row))
            certain = self.candidates.certain(context.logits(row))
            if certain is not None:
                return certain
        token = self._apply(context, row)
        if self._grammar is not None:
            token = self._held(context, row, token)
        self._L.llama_sampler_accept(self._chain, token)
        self.candidates.accept(token)
        return token

    def _held(self, context: NativeContext, row: int, token: int) -> int:
        """`token` if the grammar allows it, else another one that it allows; the grammar goes on with it."""
        refused: list[int] = []
        while not self._allows(token):  # accepting it would end the process
            if token in refused or len(refused) == _TRIES:
                raise UnsupportedFeature(
                    "The grammar and the other settings leave no token to go on with.",
                    "Check logit_bias against the grammar.",
                )
            refused.append(token)
            token = self._apply(context, row, refused)
        self._utf8.decode(self._weights.token_bytes(token))
        self._L.llama_sampler_accept(self._grammar, token)
        return token

    def logprob(self, context: NativeContext, row: int, token: int) -> TokenLogprob | None:
        """The token's log-probability and the likeliest alternatives, where the settings ask for them."""
        if self._wanted is None:
            return None
        return told_of(context.logits(row), token, self._wanted, self._weights.token_bytes)

    def free(self) -> None:
        for sampler in (self._chain, self._grammar):
            if sampler:
                self._L.llama_sampler_free(sampler)
        self._chain = self._grammar = None

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

    def _make_grammar(self, s: Sampling) -> Any:
        text = gbnf_of_schema(s.json_schema) if s.json_schema is not None else s.grammar
        if text is None:
            return None
        try:
            grammars.check(text)
        except BadInput as error:
            if s.json_schema is None:
                raise
            what = f"The JSON schema cannot be held to: {error.problem}"
            raise BadInput(what, "What refers to itself needs a way to end; split very large schemas.") from error
        with native_errors() as lines:
            grammar = self._L.llama_sampler_init_grammar(self._weights.vocab, text.encode(), b"root")
        if not grammar:
            why = lines[0] if lines else "it does not parse"
            raise BadInput(f"The grammar cannot be used: {why}.", "GBNF needs a rule `root`; see llama.cpp's grammars.")
        return grammar

    def _apply(self, context: NativeContext, row: int, refused: Sequence[int] = ()) -> int:
        """The chain's choice; once a token was refused, of those that the grammar allows."""
        logits = context.logits(row)
        ids = None if refused else self.candidates.of(logits)
        if ids is None:
            ids = np.arange(logits.size)
        candidates = np.empty(ids.size, _CANDIDATE)
        candidates["id"], candidates["logit"], candidates["p"] = ids, logits[ids], 0
        array = self._array(candidates)
        if refused:
            candidates["logit"][self._weights.never_in_text] = -np.inf
            candidates["logit"][list(refused)] = -np.inf
            self._L.llama_sampler_apply(self._grammar, ctypes.byref(array))
        self._L.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _allows(self, token: int) -> bool:
        single = np.array([(token, 0.0, 0.0)], _CANDIDATE)
        self._L.llama_sampler_apply(self._grammar, ctypes.byref(self._array(single)))
        return bool(np.isfinite(single["logit"][0])) and self._is_text(token)

    def _is_text(self, token: int) -> bool:
        """Whether the answer stays UTF-8: to a grammar any four bytes with the right first bits are a character."""
        before = self._utf8.getstate()
        try:
            self._utf8.decode(self._weights.token_bytes(token))
            rest = self._utf8.getstate()[0]
        except UnicodeDecodeError:
            return False
        finally:
            self._utf8.setstate(before)
        return not (rest[:1] == b"\xed" and rest[1:2] >= b"\xa0")  # half of a surrogate pair, which Python waits for

    def _array(self, candidates: NDArray[Any]) -> Any:
        array = self._L.llama_token_data_array()
        array.data = candidates.ctypes.data_as(self._L.llama_token_data_p)
        array.size, array.selected, array.sorted = candidates.size, -1, False
        return array
