"""Guessing ahead (`prompt_lookup`) where answers are about documents: with it, without it, and llama-cpp-python's own.

    python tests/benchmarks/prompt_lookup.py [--json] [--model FILE.gguf] [--most 3]

SmolLM2 in BF16 (made on the spot) is asked about pieces of this project's manual in the words that the app uses. Each
figure is a ratio of medians of interleaved runs. Only the decoding is timed: the prompts are computed before.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _rates import quiet
from _report import Report

from hanpaca.core.catalog import resolve
from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Completion, Request
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


def seconds_per_token(engine: LlamaCppEngine, asked: list[list[int]], sampling: Sampling, together: int) -> float:
    """`together` questions at a time, all prompts computed before."""
    streams.complete(engine, [Request(prompt, sampling.replace(max_tokens=1)) for prompt in asked])
    quiet()
    tokens, start = 0, time.perf_counter()
    for first in range(0, len(asked), together):
        requests = [Request(prompt, sampling) for prompt in asked[first : first + together]]
        answers: list[Completion] = streams.complete(engine, requests)
        tokens += sum(answer.usage.completion_tokens for answer in answers)
    return (time.perf_counter() - start) / tokens


def peer_of(path: Path, most: int) -> Any:
    import llama_cpp
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    draft = LlamaPromptLookupDecoding(num_pred_tokens=most)
    return llama_cpp.Llama(
        str(path), n_ctx=2048, n_threads=2, flash_attn=True, verbose=False, draft_model=draft, logits_all=True
    )


def peer_seconds_per_token(peer: Any, asked: list[list[int]], ends: frozenset[int]) -> float:
    quiet()
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
    return took / tokens


def measure(report: Report, path: Path, most: int) -> None:
    plain, guessing = (
        LlamaCppEngine(path, rope_of(read(path)), LlamaCppOptions(context=2048, prompt_lookup=n)) for n in (0, most)
    )
    asked = prompts(plain, 12)
    for name, sampling in SETTINGS.items():
        for together in (1, 4):
            runs = [partial(seconds_per_token, engine, asked, sampling, together) for engine in (guessing, plain)]
            ours, without = medians(runs)
            report.say(f"  {name}, {together} at a time: {1 / ours:.1f} tokens/s, without {1 / without:.1f}")
            bar = 1 if together == 1 else None
            report.check(f"{name}, {together} at a time, with / without", without / ours, least=bar)
    peer = peer_of(path, most)
    ours, other = medians(
        [
            partial(seconds_per_token, guessing, asked, SETTINGS["greedy"], 1),
            partial(peer_seconds_per_token, peer, asked, plain.vocabulary.ends),
        ]
    )
    report.say(f"  greedy, 1 at a time: {1 / ours:.1f} tokens/s, llama-cpp-python with its own {1 / other:.1f}")
    report.check("greedy, 1 at a time / Llama with LlamaPromptLookupDecoding", other / ours, least=1)
    for one in (plain, guessing, peer):
        one.close()


def medians(runs: Sequence[Callable[[], float]]) -> list[float]:
    """Of three interleaved rounds."""
    rounds = [[run() for run in runs] for _ in range(3)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


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
