"""Sampling settings → tokens, in numpy: the same steps in the same order as llama.cpp's sampler chain.

Knows one row of logits at a time and no model. The order: logit bias, penalties (over what was generated), what the
answer must match, top-k, typical, top-p, min-p, temperature, seeded draw; mirostat takes the place of everything after
what must match.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..sampling import Sampling
from .base import TokenLogprob
from .constraints import Constraint
from .generation import told_of

MIROSTAT_TOKENS = 100
"""Of how many likeliest tokens mirostat 1 estimates Zipf's exponent, as llama.cpp does."""

Floats = NDArray[np.float64]


class HasLogits(Protocol):
    """What a decoder offers after a pass."""

    def logits(self, row: int) -> NDArray[np.float32]:
        """The row's logits, (vocabulary,)."""
        ...


class NumpySampler:
    """Draws the tokens of one sequence."""

    def __init__(
        self, sampling: Sampling, token_bytes: Callable[[int], bytes], constraint: Constraint | None = None
    ) -> None:
        self._sampling, self._constraint = sampling, constraint
        self._token_bytes = token_bytes
        self._said: list[int] = []
        self._mu = 2 * sampling.mirostat_tau
        seed = secrets.randbelow(2**32 - 1) if sampling.seed is None else sampling.seed
        self._random = np.random.default_rng(seed)

    def draw(self, context: HasLogits, row: int) -> int:
        """The next token after `row` of the last pass."""
        logits = context.logits(row).astype(np.float64)
        self._adjust(logits)
        if self._constraint is not None:
            forbidden = [token for token, bias in self._sampling.logit_bias.items() if bias == -np.inf]
            logits[~self._constraint.allowed(forbidden)] = -np.inf
        token = self._choose(logits)
        if self._constraint is not None:
            self._constraint.accept(token)
        self._said.append(token)
        return token

    def logprob(self, context: HasLogits, row: int, token: int) -> TokenLogprob | None:
        """The token's log-probability and the likeliest alternatives, where the settings ask for them."""
        if self._sampling.logprobs is None:
            return None
        return told_of(context.logits(row), token, self._sampling.logprobs, self._token_bytes)

    def free(self) -> None:
        """Nothing to free; native samplers have something."""

    def _adjust(self, logits: Floats) -> None:
        """Bias and penalties, in place."""
        s = self._sampling
        for token, bias in s.logit_bias.items():
            logits[token] += bias
        window = self._said if s.penalty_last_n < 0 else self._said[max(0, len(self._said) - s.penalty_last_n) :]
        if not window:
            return
        counts = Counter(window)
        tokens = np.fromiter(counts, np.intp, len(counts))
        times = np.fromiter(counts.values(), np.float64, len(counts))
        chosen = logits[tokens]
        chosen = np.where(chosen <= 0, chosen * s.repetition_penalty, chosen / s.repetition_penalty)
        logits[tokens] = chosen - times * s.frequency_penalty - s.presence_penalty

    def _choose(self, logits: Floats) -> int:
        s = self._sampling
        if s.temperature == 0:
            return int(logits.argmax())
        if s.mirostat:
            tokens, logits = descending(logits / s.temperature, 0)
            return self._mirostat(tokens, logits)
        tokens, probabilities = candidates(logits, s)
        return int(tokens[self._pick(probabilities)])

    def _pick(self, probabilities: Floats) -> int:
        return int(self._random.choice(probabilities.size, p=probabilities))

    def _mirostat(self, tokens: NDArray[np.intp], logits: Floats) -> int:
        """Keep the surprise of the answer near `mirostat_tau` bits (arXiv 2007.14966)."""
        probabilities = softmax(logits)
        if self._sampling.mirostat == 1:
            keep = self._zipf_size(probabilities)
        else:
            keep = max(1, int((-np.log2(probabilities) <= self._mu).sum()))
        kept = probabilities[:keep] / probabilities[:keep].sum()
        index = self._pick(kept)
        self._mu -= self._sampling.mirostat_eta * (-np.log2(kept[index]) - self._sampling.mirostat_tau)
        return int(tokens[index])

    def _zipf_size(self, probabilities: Floats) -> int:
        """Mirostat 1: how many tokens to keep if probabilities follow Zipf's law."""
        head = probabilities[:MIROSTAT_TOKENS]
        ranks = np.arange(1, head.size)
        t, b = np.log((ranks + 1) / ranks), np.log(head[:-1] / head[1:])
        exponent = float((t * b).sum() / max((t * t).sum(), 1e-12))
        epsilon = exponent - 1
        if abs(epsilon) < 1e-9 or exponent <= 0:
            return int(probabilities.size)
        size = (epsilon * 2**self._mu / (1 - probabilities.size ** (-epsilon))) ** (1 / exponent)
        return int(min(max(size, 1), probabilities.size))


def candidates(logits: Floats, sampling: Sampling) -> tuple[NDArray[np.intp], Floats]:
    """The tokens that may be drawn and their probabilities, after every filter and the temperature."""
    tokens, kept = descending(logits, sampling.top_k)
    for keep in (_typical, _nucleus, _likely_enough):
        mask = keep(kept, sampling)
        if mask is not None:
            tokens, kept = tokens[mask], kept[mask]
    return tokens, softmax(kept / sampling.temperature)


def descending(logits: Floats, count: int) -> tuple[NDArray[np.intp], Floats]:
    """Tokens and logits from the largest on; the first `count` of them, 0 for all; none that is forbidden (-inf)."""
    if 0 < count < logits.size:
        best = np.argpartition(-logits, count - 1)[:count]
        order = best[np.lexsort((best, -logits[best]))]
    else:
        order = np.argsort(-logits, kind="stable")
    order = order[np.isfinite(logits[order])]
    return order, logits[order]


def softmax(logits: Floats) -> Floats:
    """Probabilities of a row of logits."""
    raised = np.exp(logits - logits.max())
    result: Floats = raised / raised.sum()
    return result


def _typical(logits: Floats, sampling: Sampling) -> NDArray[np.bool_] | None:
    """Locally typical sampling (arXiv 2202.00666): nearest to the expected surprise, until p is covered."""
    if sampling.typical_p >= 1:
        return None
    logprobs = np.log(softmax(logits))
    surprise = np.abs(-(np.exp(logprobs) * logprobs).sum() + logprobs)
    order = np.argsort(surprise, kind="stable")
    covered = np.cumsum(np.exp(logprobs[order]))
    mask = np.zeros(logits.size, np.bool_)
    mask[order[: int((covered <= sampling.typical_p).sum()) + 1]] = True
    return mask


def _nucleus(logits: Floats, sampling: Sampling) -> NDArray[np.bool_] | None:
    if sampling.top_p >= 1:
        return None
    covered = np.cumsum(softmax(logits))
    return np.arange(logits.size) <= int((covered < sampling.top_p).sum())


def _likely_enough(logits: Floats, sampling: Sampling) -> NDArray[np.bool_] | None:
    if sampling.min_p <= 0:
        return None
    mask: NDArray[np.bool_] = logits >= logits[0] + np.log(sampling.min_p)
    return mask
