"""Context extension on a real model: perplexity of a text's last tokens at several times the native window.

    python tests/benchmarks/long_context.py [--json] [--model smollm2] [--text FILE] [--lengths 16384,24576,36864]
                                            [--plans auto,ntk,yarn,4] [--engine torch|llama_cpp] [--no-control]

Each figure is a ratio to the perplexity of the same tokens inside the native window, so that texts and models compare.
`auto` is what `load` does with this model, and `ntk` the published adaptive NTK: both have the bars. `yarn` is YaRN by
length / window, not trained; a number is a fixed NTK alpha; `critical` is the alpha that keeps the slowest pair that
training saw turn in full from turning further. The two by default take SmolLM2 about forty minutes of two idle cores
with PyTorch, three times that with llama.cpp.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from _report import Report

from hanpaca.core.catalog import resolve, rope_for
from hanpaca.core.evaluation.long_context import tail_perplexity
from hanpaca.core.model import load
from hanpaca.core.rope import Choice, Rope, RopePlan, plan

BARS = {2.0: 1.1, 3.0: 1.2, 4.5: 1.3}
"""Native windows → the largest ratio."""


def bar_for(windows: float) -> float:
    """The bar at a length, between the settled ones by straight lines."""
    points = [(1.0, 1.0), *BARS.items()]
    for (low, low_bar), (high, high_bar) in pairwise(points):
        if windows <= high:
            return low_bar + (high_bar - low_bar) * (windows - low) / (high - low)
    return points[-1][1]


def plan_of(rope: Rope, length: int, word: str) -> RopePlan:
    """The plan that a word of `--plans` asks for."""
    if word in ("auto", "ntk", "yarn"):
        return plan(rope, length, extension=cast(Choice, word))
    return plan(rope, length, critical_alpha(rope, length) if word == "critical" else float(word))


def critical_alpha(rope: Rope, length: int) -> float:
    """base' = base^(ln(length / 2π) / ln(window / 2π)) (arXiv 2310.05209), as an alpha; position interpolation's factor
    is taken off both. For the published models it is nearly the published formula: 8.2 and 8 at 4.5 windows; for
    SmolLM2 it is 10.4 there."""
    factor = rope.native_context / rope.trained
    power = math.log(length / factor / (2 * math.pi)) / math.log(rope.trained / (2 * math.pi)) - 1
    return max(1.0, rope.base ** (power * (rope.dim - 2) / rope.dim))


def label(chosen: RopePlan) -> str:
    """What a plan is, for the report."""
    if chosen.extension == "yarn":
        return f"YaRN ×{chosen.rope.factor:g}"
    return "without NTK" if chosen.is_native else f"NTK alpha {chosen.alpha:g}, base {chosen.base:.0f}"


def with_torch(options: Any, text: str, longest: int) -> Callable[[RopePlan], float]:
    from _torch_prefill import TorchPrefill

    path = resolve(options.model).path
    assert path is not None
    model = TorchPrefill(path, options.threads)
    tokens = enough(model.tokenize(text), longest)
    return lambda chosen: model.perplexity(chosen, tokens, options.tail)


def with_llama_cpp(options: Any, text: str, longest: int) -> Callable[[RopePlan], float]:
    engine = {"threads": options.threads} if options.threads else {}
    with load(options.model) as model:
        tokens = enough(model.engine.tokenize(text), longest)

    def perplexity(chosen: RopePlan) -> float:
        length = chosen.context
        how = {"extension": "yarn"} if chosen.extension == "yarn" else {"alpha": chosen.alpha}
        with load(options.model, context=length, cells=length, **how, **engine) as model:
            return tail_perplexity(model, tokens, length, options.tail)

    return perplexity


def enough(tokens: list[int], longest: int) -> list[int]:
    if len(tokens) < longest:
        raise SystemExit(f"The text has {len(tokens):,} tokens; {longest:,} are needed: give a longer one (--text).")
    return tokens[:longest]


def main() -> int:
    report = Report("long_context", (__doc__ or "").splitlines()[0])
    add = report.parser.add_argument
    add("--model", default="smollm2", help="any model that `load` takes")
    add("--text", type=Path, help="default: the English manual of debmake in the data folder")
    add("--lengths", default="16384,24576,36864", help="tokens, separated by commas")
    add("--until", type=int, default=36_864, help="where in the text the scored tokens end, whatever the lengths")
    add("--plans", default="auto,ntk", help="what to compare at each length; default: %(default)s")
    add("--engine", choices=["torch", "llama_cpp"], default="torch", help="default: %(default)s")
    add("--no-control", action="store_true", help="leave out the first length without NTK, which must explode")
    add("--tail", type=int, default=2048, help="tokens at the end that are scored")
    add("--threads", type=int, help="default: one for each core")
    options = report.parse()
    if not (options.text or options.data):
        raise SystemExit("Name the data folder (--data or HANPACA_DATA), or a text of your own (--text FILE).")
    text = (options.text or options.data / "docs/txt/debmake-doc.en.txt").read_text(encoding="utf-8")
    lengths = [int(length) for length in options.lengths.split(",")]
    rope = rope_for(options.model)
    make = with_torch if options.engine == "torch" else with_llama_cpp
    measure = make(options, text, max(options.until, *lengths))
    measured = lru_cache(maxsize=None)(measure)  # where `auto` is one of the others, it is measured once

    native = measure(plan(rope, rope.native_context))
    report.say(f"native window of {rope.native_context}: perplexity {native:.3f} ({options.engine})")
    for length, word in [(length, word) for length in lengths for word in options.plans.split(",")]:
        chosen, windows = plan_of(rope, length, word), length / rope.native_context
        name = f"{length} tokens, {windows:g} windows, {word}: {label(chosen)} (ratio)"
        report.check(name, measured(chosen) / native, most=bar_for(windows) if word in ("auto", "ntk") else None)
    if not options.no_control:
        bare = plan(rope, lengths[0], 1.0)
        report.check(f"{lengths[0]} tokens, {label(bare)} (ratio)", measure(bare) / native, least=2.0)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
