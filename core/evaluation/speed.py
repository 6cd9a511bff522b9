"""How fast an engine is on this machine: prefill, time to first token, decoding alone and together.

Knows engines only by their contract. Prompts are random tokens, so nothing is found in a cache.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..engines.base import Delta, Engine, Request
from ..errors import BadInput
from ..sampling import Sampling


@dataclass(frozen=True)
class Speed:
    """Tokens per second, and seconds."""

    prefill: float
    """Prompt tokens per second."""
    first_token: float
    """Seconds to the first token of the measured prompt."""
    prompt: int
    """Tokens of that prompt."""
    decode: dict[int, float] = field(default_factory=dict)
    """Requests at the same time → generated tokens per second, all together."""


def measure(
    engine: Engine,
    *,
    streams: Sequence[int] = (1, 4, 16),
    prompt: int = 512,
    new: int = 32,
    on_progress: Callable[[str], None] | None = None,
) -> Speed:
    """Measure an engine that nobody else uses meanwhile. `prompt` and `new` are tokens."""
    if prompt < 1:
        raise BadInput(f"A prompt to measure has at least one token, not {prompt}.")
    tell = on_progress or (lambda _: None)
    prompt = min(prompt, engine.context // 2)
    tell("warming up")
    decode_rate(engine, 1, 4)
    tell(f"prefill of {prompt} tokens")
    first = min(_first_token(engine, prompt) for _ in range(2))
    decode: dict[int, float] = {}
    for count in streams:
        tell(f"{count} at a time")
        decode[count] = decode_rate(engine, count, new)
    return Speed(prompt / first, first, prompt, decode)


def decode_rate(engine: Engine, count: int, new: int) -> float:
    """Generated tokens per second of `count` requests of `new` tokens, while all of them decode: from the last
    request's first token to the first one's end."""
    crowd = _Crowd(count)
    sampling = _endless(engine, new)
    for index in range(count):
        engine.submit(Request(random_prompt(engine, 16), sampling), crowd.listener(index))
    crowd.wait()
    start, end = max(times[0] for times in crowd.times), min(times[-1] for times in crowd.times)
    if end <= start:  # not all ran together: over all the time that any of them decoded
        start, end = min(times[0] for times in crowd.times), max(times[-1] for times in crowd.times)
    outside = sum(time <= start or time > end for times in crowd.times for time in times)
    return (crowd.tokens - outside) / max(end - start, 1e-9)


def random_prompt(engine: Engine, length: int) -> list[int]:
    """BOS where the model has one, then ordinary tokens."""
    vocabulary = engine.vocabulary
    bos = [vocabulary.bos] if vocabulary.bos is not None else []
    low = min(300, vocabulary.size // 2)
    return bos + [random.randrange(low, vocabulary.size) for _ in range(length - len(bos))]


def _first_token(engine: Engine, length: int) -> float:
    crowd = _Crowd(1)
    start = time.perf_counter()
    engine.submit(Request(random_prompt(engine, length), _endless(engine, 1)), crowd.listener(0))
    crowd.wait()
    return crowd.times[0][0] - start


def _endless(engine: Engine, new: int) -> Sampling:
    """Greedy, and never ending early."""
    ends = dict.fromkeys(engine.vocabulary.ends, -1e9)
    return Sampling(max_tokens=new, temperature=0, repetition_penalty=1.0, logit_bias=ends)


class _Crowd:
    """Notes when each of several requests heard each of its deltas."""

    def __init__(self, count: int) -> None:
        self.times: list[list[float]] = [[] for _ in range(count)]
        self.tokens = 0
        """Generated in all: more than deltas, where a character takes several."""
        self._ended = threading.Semaphore(0)
        self._error: BaseException | None = None

    def listener(self, index: int) -> Callable[[Delta | BaseException], None]:
        times = self.times[index]

        def hear(event: Delta | BaseException) -> None:
            times.append(time.perf_counter())
            if isinstance(event, BaseException):
                self._error = event
            elif event.usage is not None:
                self.tokens += event.usage.completion_tokens
            if isinstance(event, BaseException) or event.finish_reason:
                self._ended.release()

        return hear

    def wait(self) -> None:
        for _ in self.times:
            self._ended.acquire()
        if self._error is not None:
            raise self._error
