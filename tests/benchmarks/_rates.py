"""How fast tokens come, measured in the ways that the benchmarks of the engine share."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import psutil

from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Request
from hanpaca.core.engines.llama_context import NativeContext
from hanpaca.core.engines.llama_cpp import LlamaCppEngine
from hanpaca.core.sampling import Sampling

GREEDY = Sampling(max_tokens=64, temperature=0, repetition_penalty=1.0)
T = TypeVar("T")
ENDLESS: dict[int, float] = {}
"""A logit bias that forbids the ends of answers, so that every run generates the same number of tokens."""
choose = random.Random(0)


def prompt(length: int) -> list[int]:
    """Random ordinary tokens."""
    return [1, *(choose.randrange(300, 30_000) for _ in range(length - 1))]


def llama(path: Path, **settings: Any) -> Any:
    """llama-cpp-python's own class over a file."""
    import llama_cpp

    return llama_cpp.Llama(str(path), n_ctx=2048, n_threads=2, flash_attn=True, verbose=False, **settings)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def quiet() -> None:
    """Wait, ten seconds at most, until no core is busy. A server's workers may wait for work by spinning (vLLM's do so
    for two seconds after their last token), and would take a core from whoever is measured next."""
    end = time.monotonic() + 10
    while max(psutil.cpu_percent(0.3, percpu=True)) > 10 and time.monotonic() < end:
        pass


def apart(work: Callable[[], T]) -> T:
    """What it returns in a thread of its own, with which the threads end that OpenMP makes for it: while more of them
    are left than there are cores, GNU's OpenMP slows down all."""
    with ThreadPoolExecutor(1) as one:
        return one.submit(work).result()


def median_ratio(ours: Callable[[], float], theirs: Callable[[], float], runs: int) -> tuple[float, float, float]:
    """Median of ours, of theirs, and their ratio, alternating, each on a quiet machine and in a thread of its own."""

    def one(rate: Callable[[], float]) -> float:
        quiet()
        return apart(rate)

    pairs = [(one(ours), one(theirs)) for _ in range(runs)]
    first, second = (statistics.median(values) for values in zip(*pairs, strict=True))
    return first, second, first / second


def bare_rate(context: NativeContext, count: int, new: int) -> float:
    """Tokens per second of nothing but `llama_decode` with `count` sequences."""
    for sequence in range(count):
        context.trim(sequence, 0)
        context.decode(prompt(16), range(16), [sequence] * 16, [False] * 16)
    ids, tokens = list(range(count)), [500] * count
    start = time.perf_counter()
    for step in range(new):
        context.decode(tokens, [16 + step] * count, ids, [True] * count)
    return count * new / (time.perf_counter() - start)


def total_rate(engine: LlamaCppEngine, count: int, new: int) -> float:
    """Tokens per second of `count` requests from their submission to the last one's end, as a client sees it."""
    sampling = GREEDY.replace(max_tokens=new, logit_bias=ENDLESS)
    requests = [Request(prompt(8), sampling) for _ in range(count)]
    return count * new / timed(lambda: streams.complete(engine, requests))
