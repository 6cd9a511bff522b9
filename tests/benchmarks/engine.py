"""The llama.cpp engine against bare loops and llama-cpp-python, all in one run on one machine.

    python tests/benchmarks/engine.py [--json] [--model smollm2 | --model FILE.gguf | --model random-1.3b] [--part NAME]

Each figure is a ratio of medians of interleaved runs, so that noise of the machine falls on both sides.
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

import _random_models as random_models
from _rates import ENDLESS, GREEDY, apart, bare_rate, llama, median_ratio, prompt, quiet, timed, total_rate
from _report import Report

from hanpaca.core import tuning
from hanpaca.core.catalog import resolve
from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Request
from hanpaca.core.engines.llama_context import NativeContext
from hanpaca.core.engines.llama_cpp import LlamaCppEngine, LlamaCppOptions
from hanpaca.core.engines.llama_native import NativeWeights
from hanpaca.core.engines.llama_sampling import Sampler
from hanpaca.core.evaluation.speed import decode_rate
from hanpaca.core.gguf_header import read, rope_of
from hanpaca.core.sampling import Sampling


def one_stream(report: Report, name: str, path: Path, new: int) -> None:
    """Against llama-cpp-python's own generator, same settings, each loaded first once: where memory lies can make the
    second copy of the weights in a process a third faster."""
    ratios = []
    for ours_first in (True, False):
        loads = [(lambda: opened(path)), (lambda: llama(path))]
        loaded = [load() for load in (loads if ours_first else loads[::-1])]
        engine, peer = loaded if ours_first else loaded[::-1]
        mine, other, ratio = one_stream_of_each(engine, peer, new)
        report.say(f"  {name}: one stream {mine:.1f} tokens/s, Llama.generate {other:.1f}")
        ratios.append(ratio)
        for one in loaded:
            one.close()
    report.check(f"{name} one stream / Llama.generate", statistics.geometric_mean(ratios), least=0.97)


def one_stream_of_each(engine: Any, peer: Any, new: int) -> tuple[float, float, float]:
    sampling = GREEDY.replace(max_tokens=new, logit_bias={token: -1e9 for token in engine.vocabulary.ends})

    def theirs() -> float:
        peer.reset()
        generator = peer.generate(prompt(16), temp=0.0, top_k=1, repeat_penalty=1.0)
        next(generator)
        return (new - 1) / timed(lambda: [next(generator) for _ in range(new - 1)])

    def ours() -> float:
        stream = streams.stream(engine, Request(prompt(16), sampling))
        next(stream)
        return (new - 1) / timed(lambda: list(stream))

    return median_ratio(ours, theirs, 5)


def opened(path: Path) -> LlamaCppEngine:
    return LlamaCppEngine(path, rope_of(read(path)), LlamaCppOptions(context=6144, cells=12_288))


def batches(report: Report, name: str, engine: LlamaCppEngine, context: NativeContext, new: int) -> None:
    for count in (4, 8, 16):
        mine, bare, ratio = median_ratio(
            partial(decode_rate, engine, count, new), partial(bare_rate, context, count, new), 5
        )
        report.say(f"  {name}: {count} streams {mine:.1f} tokens/s, bare llama_decode {bare:.1f}")
        report.check(f"{name} {count} streams / bare loop", ratio, least=0.9)


def first_token(engine: LlamaCppEngine, tokens: Sequence[int]) -> float:
    stream = streams.stream(engine, Request(tokens, GREEDY.replace(max_tokens=2, logit_bias=ENDLESS)))
    took = timed(lambda: next(stream))
    stream.close()
    return took


def prefixes(report: Report, name: str, engine: LlamaCppEngine) -> None:
    cold, warm = [], []
    for _ in range(3):
        history = prompt(2000)
        cold.append(first_token(engine, history))
        warm.append(first_token(engine, [*history, *prompt(20)]))
    report.check(f"{name} second turn / cold, time to first token", statistics.median(warm) / statistics.median(cold),
                 most=1 / 8)  # fmt: skip
    document = prompt(1500)
    questions = [[*document, *prompt(20)] for _ in range(8)]
    before = engine.computed
    answers = streams.complete(engine, [Request(q, GREEDY.replace(max_tokens=8)) for q in questions])
    generated = sum(answer.usage.completion_tokens for answer in answers)
    computed = engine.computed - before - generated + len(answers)  # a last token is drawn, not computed
    report.check(f"{name} prefill of 8 questions over one document / of one", computed / 1520, most=1.3)


def stalls(report: Report, name: str, engine: LlamaCppEngine) -> None:
    """Gaps between the tokens of four streams while a long prompt is prefilled beside them."""
    ratios = []
    for _ in range(3):
        sampling = GREEDY.replace(max_tokens=400, logit_bias=ENDLESS)
        gaps: list[list[float]] = [[] for _ in range(4)]
        last = [0.0] * 4

        def listener(index: int, gaps: list[list[float]] = gaps, last: list[float] = last) -> Callable[[object], None]:
            def hear(event: object) -> None:
                now = time.perf_counter()
                if last[index]:
                    gaps[index].append(now - last[index])
                last[index] = now

            return hear

        handles = [engine.submit(Request(prompt(16), sampling), listener(i)) for i in range(4)]
        time.sleep(0.5)
        for gap in gaps:
            gap.clear()
        first_token(engine, prompt(4000))
        for handle in handles:
            handle.cancel()
        chunks = sorted(gap for stream in gaps for gap in stream)
        ratios.append(chunks[-1] / statistics.median(chunks))
    report.check(f"{name} longest gap beside a 4,000-token prompt / one chunk", statistics.median(ratios), most=1.5)


def cancellation(report: Report, name: str, engine: LlamaCppEngine) -> None:
    """Tokens computed after a cancelled request's caller has gone: at most the step under way."""
    worst = 0.0
    for _ in range(5):
        stream = streams.stream(engine, Request(prompt(16), GREEDY.replace(max_tokens=1000, logit_bias=ENDLESS)))
        for _ in range(5):
            next(stream)
        before = engine.computed
        stream.close()
        time.sleep(0.5)
        worst = max(worst, engine.computed - before)
    report.check(f"{name} steps after a cancel", worst, most=1)


def draws(report: Report, name: str, context: NativeContext) -> None:
    """Microseconds of a draw by the default settings, the logits just computed, against llama.cpp's chain over all
    tokens. Twenty passes, half of the rows each, so that neither finds what the other has brought into the caches."""
    took: tuple[list[float], list[float]] = ([], [])
    ours, whole = (Sampler(context.weights, Sampling(seed=1)) for _ in took)
    whole.candidates.few = False
    for _ in range(20):
        context.trim(0, 0)
        context.decode(prompt(32), range(32), [0] * 32, [True] * 32)
        for row in range(32):
            sampler, times = ((ours, took[0]), (whole, took[1]))[row % 2]
            times.append(timed(partial(sampler.draw, context, row)))
    mine, other = (1e6 * statistics.median(times) for times in took)
    report.say(f"  {name}: a draw {mine:.0f} µs, llama_sampler_sample {other:.0f}")
    report.check(f"{name} a draw / llama_sampler_sample", mine / other, most=1)
    for sampler in (ours, whole):
        sampler.free()


def beside_another(report: Report, name: str, path: Path, engine: LlamaCppEngine, new: int) -> None:
    """Tokens per second while another model is loaded that has just answered, to those without one."""

    def beside() -> float:
        other = LlamaCppEngine(path, rope_of(read(path)), LlamaCppOptions(context=2048, mmap=False))
        try:
            decode_rate(other, 1, 4)
            quiet()
            return decode_rate(engine, 1, new)
        finally:
            other.close()

    mine, alone, ratio = median_ratio(beside, partial(decode_rate, engine, 1, new), 5)
    report.say(f"  {name}: one stream beside another model {mine:.1f} tokens/s, without it {alone:.1f}")
    report.check(f"{name} one stream, beside an idle model / without", ratio, least=0.9)


def server(report: Report, name: str, path: Path, engine: LlamaCppEngine, new: int) -> None:
    """Total tokens/s of 16 callers against llama-cpp-python's own server with 16 clients: over the same file, and, for
    a model that a package carries, over the type that `load` uses, while the server runs the packaged file."""
    import _peer_server as peer_server

    engines = {name: engine}
    usual = tuning.prepare(resolve(name)).path if not name.startswith("random") else path
    if usual is not None and usual != path:
        engines[f"{name} as loaded ({usual.suffixes[-2].lstrip('.')})"] = LlamaCppEngine(
            usual, rope_of(read(usual)), LlamaCppOptions(context=2048)
        )
    with peer_server.llama_cpp_server(path) as url:
        for label, ours in engines.items():
            mine, other, ratio = median_ratio(
                partial(total_rate, ours, 16, new), partial(peer_server.rate, url, 16, new), 3
            )
            report.say(f"  {label}: 16 callers {mine:.1f} tokens/s, llama_cpp.server {other:.1f}")
            report.check(f"{label} 16 callers / llama_cpp.server", ratio, least=3)
    for ours in engines.values():
        if ours is not engine:
            ours.close()


def tuned_file(report: Report, name: str, loss: float) -> Path:
    """What `hanpaca tune` chooses on this machine."""
    source = resolve(name)
    _, chosen = tuning.tune(source, loss=loss)
    report.say(f"  {name} is tuned to {chosen.type}, perplexity {chosen.perplexity:.3f}")
    path = tuning.tuned(source).path
    assert path is not None
    return path


def vllm(report: Report, url: str, path: Path) -> None:
    """Total tokens/s at 1, 4 and 16 clients against a running vLLM that serves the same model."""
    import _peer_server as peer_server

    engine = LlamaCppEngine(path, rope_of(read(path)), LlamaCppOptions(context=2048))
    ENDLESS.clear()
    ENDLESS.update({token: -1e9 for token in engine.vocabulary.ends})
    for count, bar in ((1, 1.0), (4, 1.0), (16, 1.2)):
        mine, other, ratio = median_ratio(
            partial(total_rate, engine, count, 64),
            partial(peer_server.rate, url, count, 64, ignore_eos=True),
            8,
        )
        report.say(f"  {path.name}: {count} callers {mine:.1f} tokens/s, vLLM {other:.1f}")
        report.check(f"{path.name} {count} callers / vLLM", ratio, least=bar)
    engine.close()


PARTS = ("one-stream", "batches", "prefixes", "stalls", "cancellation", "draws", "beside", "server")


def measure(report: Report, name: str, path: Path, new: int, parts: Sequence[str]) -> None:
    if "one-stream" in parts:
        one_stream(report, name, path, 2 * new)
    engine = opened(path)
    weights = NativeWeights(path)
    context = NativeContext(weights, cells=12_288, rope={}, sequences=128)
    ENDLESS.clear()
    ENDLESS.update({token: -1e9 for token in engine.vocabulary.ends})
    work: dict[str, Callable[[], None]] = {
        "batches": partial(batches, report, name, engine, context, new),
        "prefixes": partial(prefixes, report, name, engine),
        "stalls": partial(stalls, report, name, engine),
        "cancellation": partial(cancellation, report, name, engine),
        "draws": partial(apart, partial(draws, report, name, context)),
        "beside": partial(beside_another, report, name, path, engine, new),
        "server": partial(server, report, name, path, engine, new),
    }
    try:
        for part in [part for part in parts if part in work]:
            work[part]()
    finally:
        engine.close()
        context.close()
        weights.free()


def main() -> int:
    report = Report("engine", __doc__ or "")
    report.parser.add_argument("--model", action="append", help="smollm2, random-1.3b or a GGUF file; repeatable")
    report.parser.add_argument("--part", action="append", choices=PARTS, help="only this part; repeatable")
    report.parser.add_argument(
        "--vllm", metavar="URL", help="only compare, tuned for this machine, with a vLLM server of the first --model"
    )
    report.parser.add_argument(
        "--loss", type=float, default=tuning.LOSS, help="with --vllm: what `tune` may lose (0.02)"
    )
    options = report.parse()
    if options.vllm:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HANPACA_CACHE"] = folder
            vllm(report, options.vllm, tuned_file(report, (options.model or ["smollm2"])[0], options.loss))
        return report.end()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.model or ["smollm2", "random-1.3b"]:
            if name == "random-1.3b":
                path = random_models.write_q4_0(Path(folder) / "random-1.3b.gguf")
            else:
                found = resolve(name).path
                assert found is not None
                path = found
            measure(report, name, path, 64 if name == "smollm2" else 24, options.part or PARTS)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
