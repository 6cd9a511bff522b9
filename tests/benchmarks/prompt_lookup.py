"""Guessing ahead (`prompt_lookup`) where answers are about documents: with it, without it, and llama-cpp-python's own.

    python tests/benchmarks/prompt_lookup.py [--json] [--model FILE.gguf] [--most 3]

SmolLM2 in BF16 (made on the spot) is asked about pieces of this project's manual in the words that the app uses. Each
figure is a ratio of medians of interleaved runs. Only the decoding is timed: the prompts are computed before.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from _rates import llama, median_ratio
from _report import Report

from hanpaca.core.catalog import resolve
from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Request
from hanpaca.core.engines.llama_cpp import LlamaCppEngine, LlamaCppOptions
from hanpaca.core.gguf_header import read, rope_of
from hanpaca.core.sampling import Sampling
from hanpaca.core.weights.quantize import quantize
from hanpaca.rag.prompts import ENGLISH

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "en"
QUESTIONS = (
    "What are the most important facts?",
    "Which commands are there, and what does each do?",
    "What is this about?",
)
NEW = 120
SETTINGS = {"default settings": Sampling(max_tokens=NEW, seed=7),
            "greedy": Sampling(max_tokens=NEW, temperature=0, repetition_penalty=1.0)}  # fmt: skip


def prompts(engine: LlamaCppEngine, count: int) -> list[list[int]]:
    """Questions over two pieces of the manual each."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(MANUAL.glob("*.md")))
    pieces = [text[at : at + 900] for at in range(0, len(text) - 900, len(text) // (2 * count + 1))]
    found = []
    for index in range(count):
        sources = "\n\n".join(f"[{n + 1}] {piece}" for n, piece in enumerate(pieces[2 * index : 2 * index + 2]))
        question = ENGLISH.question.format(sources=sources, question=QUESTIONS[index % len(QUESTIONS)])
        turns = [("system", ENGLISH.system), ("user", question)]
        chat = "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in turns)
        found.append(engine.tokenize(f"{chat}<|im_start|>assistant\n", special=True))
    return found


def rate(engine: LlamaCppEngine, asked: list[list[int]], sampling: Sampling, together: int) -> float:
    """Tokens per second of `together` questions at a time, all prompts computed before."""
    streams.complete(engine, [Request(prompt, sampling.replace(max_tokens=1)) for prompt in asked])
    tokens, start = 0, time.perf_counter()
    for first in range(0, len(asked), together):
        requests = [Request(prompt, sampling) for prompt in asked[first : first + together]]
        tokens += sum(answer.usage.completion_tokens for answer in streams.complete(engine, requests))
    return tokens / (time.perf_counter() - start)


def peer_rate(peer: Any, asked: list[list[int]], ends: frozenset[int]) -> float:
    """The same of llama-cpp-python's generator, greedily, one question at a time."""
    tokens, took = 0, 0.0
    for prompt in asked:
        peer.reset()
        generator = peer.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0)
        token, count, start = next(generator), 1, time.perf_counter()
        while token not in ends and count < NEW:
            token = next(generator)
            count += 1
        took += time.perf_counter() - start
        tokens += count - 1
    return tokens / took


def measure(report: Report, path: Path, most: int) -> None:
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    plain, guessing = (
        LlamaCppEngine(path, rope_of(read(path)), LlamaCppOptions(context=2048, prompt_lookup=n)) for n in (0, most)
    )
    asked = prompts(plain, 12)
    for name, sampling in SETTINGS.items():
        for together in (1, 4):
            ours, without, ratio = median_ratio(
                *(partial(rate, engine, asked, sampling, together) for engine in (guessing, plain)), 3
            )
            report.say(f"  {name}, {together} at a time: {ours:.1f} tokens/s, without {without:.1f}")
            report.check(f"{name}, {together} at a time, with / without", ratio, least=1 if together == 1 else None)
    peer = llama(path, logits_all=True, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=most))
    ours, other, ratio = median_ratio(
        partial(rate, guessing, asked, SETTINGS["greedy"], 1),
        partial(peer_rate, peer, asked, plain.vocabulary.ends),
        3,
    )
    report.say(f"  greedy, 1 at a time: {ours:.1f} tokens/s, llama-cpp-python with its own {other:.1f}")
    report.check("greedy, 1 at a time / Llama with LlamaPromptLookupDecoding", ratio, least=1)
    for one in (plain, guessing, peer):
        one.close()


def main() -> int:
    report = Report("prompt_lookup", __doc__ or "")
    report.parser.add_argument("--model", type=Path, metavar="FILE", help="default: the bundled SmolLM2 in BF16")
    report.parser.add_argument("--most", type=int, default=3, help="tokens of a guess")
    options = report.parse()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HANPACA_CACHE"] = folder
        path = options.model
        if path is None:
            bundled = resolve("smollm2").path
            assert bundled is not None
            path = quantize(bundled, Path(folder) / "smollm2.BF16.gguf", "BF16")
        measure(report, path, options.most)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
