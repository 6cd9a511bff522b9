"""Answers that must match a JSON schema: their tokens per second beside llama-cpp-python's own.

    python tests/benchmarks/constrained.py [--json]

SmolLM2 as it is shipped writes `NEW` tokens of an endless JSON array, greedily; the prompt is computed before. Each
figure is a ratio of medians of interleaved runs.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import Any

from _rates import llama, median_ratio
from _report import Report

from hanpaca.core.catalog import resolve
from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Request
from hanpaca.core.engines.llama_cpp import LlamaCppEngine, LlamaCppOptions
from hanpaca.core.gguf_header import read, rope_of
from hanpaca.core.sampling import Sampling

NEW = 120
PROMPT = "<|im_start|>user\nList animals as JSON.<|im_end|>\n<|im_start|>assistant\n"
ITEM = {"type": "object", "properties": {"name": {"type": "string"}, "legs": {"type": "integer"}},
        "required": ["name", "legs"], "additionalProperties": False}  # fmt: skip
SCHEMA = {"type": "array", "items": ITEM, "minItems": 500}


def ours(engine: LlamaCppEngine, schema: dict[str, Any] | None) -> float:
    """Tokens per second."""
    prompt = engine.tokenize(PROMPT, special=True)
    ends = {token: float("-inf") for token in engine.vocabulary.ends}
    sampling = Sampling(temperature=0, repetition_penalty=1, max_tokens=NEW, json_schema=schema, logit_bias=ends)
    streams.complete(engine, [Request(prompt, sampling.replace(max_tokens=1))])
    start = time.perf_counter()
    (answer,) = streams.complete(engine, [Request(prompt, sampling)])
    return answer.usage.completion_tokens / (time.perf_counter() - start)


def theirs(peer: Any) -> float:
    """Tokens per second; the prompt is in its cache from the run before."""
    from llama_cpp import LlamaGrammar

    grammar = LlamaGrammar.from_json_schema(json.dumps(SCHEMA), verbose=False)
    tokens = peer.tokenize(PROMPT.encode(), add_bos=False, special=True)
    peer.create_completion(tokens, max_tokens=1, temperature=0, repeat_penalty=1)
    start = time.perf_counter()
    answer = peer.create_completion(tokens, max_tokens=NEW, temperature=0, repeat_penalty=1, grammar=grammar)
    return float(answer["usage"]["completion_tokens"] / (time.perf_counter() - start))


def main() -> int:
    report = Report("constrained", __doc__ or "")
    report.parse()
    path = resolve("smollm2").path
    assert path is not None
    engine = LlamaCppEngine(path, rope_of(read(path)), LlamaCppOptions(context=2048))
    peer = llama(path)
    mine, other, ratio = median_ratio(partial(ours, engine, SCHEMA), partial(theirs, peer), 5)
    report.say(f"  {mine:.1f} tokens/s, llama-cpp-python with LlamaGrammar {other:.1f}")
    report.check("JSON schema / Llama with LlamaGrammar", ratio, least=1)
    held, free, ratio = median_ratio(partial(ours, engine, SCHEMA), partial(ours, engine, None), 5)
    report.say(f"  {held:.1f} tokens/s with a schema, {free:.1f} without")
    report.check("JSON schema / no constraint", ratio, least=0.9)
    for one in (engine, peer):
        one.close()
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
