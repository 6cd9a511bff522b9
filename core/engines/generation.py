"""What the engines that run here ask of the scheduler: generations and scores. Knows no decoder and no queue."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .assembly import Assembly
from .base import Request, TokenLogprob
from .jobs import Job


class TokenSampler(Protocol):
    """Draws the tokens of one sequence."""

    def draw(self, context: Any, row: int) -> int:
        """The next token after a row of the last pass."""
        ...

    def logprob(self, context: Any, row: int, token: int) -> TokenLogprob | None:
        """What the request wants to know of it."""
        ...

    def free(self) -> None:
        """Let go of native memory."""
        ...


class GenerationJob(Job):
    """Draws tokens until the answer ends."""

    def __init__(self, request: Request, limit: int, sampler: TokenSampler, assembly: Assembly) -> None:
        super().__init__(request.tokens, limit, len(request.tokens) - 1, request.sampling.timeout)
        self._sampler = sampler
        self.assembly = assembly

    def started(self, cached: int) -> None:
        self.assembly.cached_tokens = cached

    def output(self, row: int, position: int) -> int | None:
        token = self._sampler.draw(self.decoder, row)
        done = self.assembly.token(token, self._sampler.logprob(self.decoder, row, token))
        return None if done else token

    def fail(self, error: BaseException) -> None:
        self.assembly.fail(error)

    def released(self) -> None:
        self._sampler.free()


class GenerationHandle:
    """A generation under way."""

    def __init__(self, job: GenerationJob) -> None:
        self._job = job

    def cancel(self) -> None:
        """Stop within one step; the listener hears no more."""
        self._job.assembly.silence()
        self._job.cancelled = True


class ScoreJob(Job):
    """Reads off the log-probability of each given token."""

    def __init__(self, prompt: Sequence[int], continuation: Sequence[int]) -> None:
        super().__init__([*prompt, *continuation[:-1]], 1, len(prompt) - 1)
        self._targets = continuation
        self._scores: list[float] = []
        self._error: BaseException | None = None
        self._done = threading.Event()

    @classmethod
    def empty(cls, prompt: Sequence[int]) -> ScoreJob:
        """A continuation without tokens: done already."""
        job = cls(prompt, ())
        job._done.set()
        return job

    def wait(self) -> None:
        """Until the scores are there, or an error."""
        self._done.wait()

    def result(self) -> list[float]:
        """Wait for the scores."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._scores

    def output(self, row: int, position: int) -> int | None:
        target = self._targets[position - self.first_output]
        self._scores.append(log_probability(self.decoder.logits(row), target))
        return None

    def fail(self, error: BaseException) -> None:
        self._error = error

    def released(self) -> None:
        self._done.set()


def log_probability(logits: NDArray[np.float32], token: int) -> float:
    """Natural-log probability of one token. Summed in double precision, exponentiated in single: half the time
    of `log_softmax`, which counts where every token of a text is scored."""
    most = logits.max()
    total = np.exp(logits - most).sum(dtype=np.float64)
    return float(logits[token]) - float(most) - math.log(total)


def told_of(logits: NDArray[np.float32], token: int, wanted: int, piece: Callable[[int], bytes]) -> TokenLogprob:
    """A token's log-probability and those of the `wanted` likeliest tokens."""
    if not wanted:
        return TokenLogprob(token, piece(token), log_probability(logits, token), ())
    logprobs = log_softmax(logits)
    count = min(wanted, logprobs.size)
    best = np.argpartition(-logprobs, range(count))[:count]
    top = tuple((int(t), piece(int(t)), float(logprobs[t])) for t in best)
    return TokenLogprob(token, piece(token), float(logprobs[token]), top)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural-log probabilities of one row of logits."""
    shifted = logits.astype(np.float64) - float(logits.max())
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result
