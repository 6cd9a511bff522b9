"""What the tests of the llama.cpp engine share: engines over test files, prompts, and waiting."""

import random
import time

from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Request
from hanpaca.core.engines.llama_cpp import LlamaCppEngine, LlamaCppOptions
from hanpaca.core.gguf_header import read, rope_of
from hanpaca.core.sampling import Sampling

GREEDY = Sampling(max_tokens=24, temperature=0, repetition_penalty=1.0)


def open_engine(path, **options):
    """An engine over a file; `options` are those of `hanpaca.load`."""
    return LlamaCppEngine(path, rope_of(read(path)), LlamaCppOptions(**options))


def ask(engine, question="What is the capital of France?"):
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return engine.tokenize(text, special=True)


def generate(engine, *prompts, sampling=GREEDY):
    return streams.complete(engine, [Request(list(prompt), sampling) for prompt in prompts])


def random_prompts(count, longest=300, seed=0):
    choose = random.Random(seed)
    return [[1, *(choose.randrange(3, 290) for _ in range(choose.randrange(1, longest)))] for _ in range(count)]


def endless(engine, tokens=4000):
    """Greedy, and never ending by itself."""
    return GREEDY.replace(max_tokens=tokens, logit_bias=dict.fromkeys(engine.vocabulary.ends, -1e9))


def wait_until(true, seconds=20):
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


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
