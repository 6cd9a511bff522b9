"""Context extension on a real model: perplexity of a text's last tokens at several times the native window.

    python tests/benchmarks/long_context.py [--json] [--model smollm2] [--text FILE] [--lengths 16384,24576,36864]

Each figure is a ratio to the perplexity of the same tokens inside the native window, so that texts and models compare.
On two idle cores SmolLM2 takes about half an hour, most of it for the longest length.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

from _report import Report

from hanpaca.core.evaluation.long_context import Alpha, Point, curve

BARS = {2.0: 1.1, 3.0: 1.2, 4.5: 1.3}
"""Native windows → the largest ratio."""


def bar_for(windows: float) -> float:
    """The bar at a length, between the settled ones by straight lines."""
    points = [(1.0, 1.0), *BARS.items()]
    for (low, low_bar), (high, high_bar) in pairwise(points):
        if windows <= high:
            return low_bar + (high_bar - low_bar) * (windows - low) / (high - low)
    return points[-1][1]


def main() -> int:
    report = Report("long_context", (__doc__ or "").splitlines()[0])
    report.parser.add_argument("--model", default="smollm2", help="any model that `load` takes")
    report.parser.add_argument("--text", type=Path, help="default: the English manual of debmake in the data folder")
    report.parser.add_argument("--lengths", default="16384,24576,36864", help="tokens, separated by commas")
    report.parser.add_argument("--tail", type=int, default=2048, help="tokens at the end that are scored")
    report.parser.add_argument("--threads", type=int, help="default: one for each core")
    options = report.parse()
    text = (options.text or options.data / "docs/txt/debmake-doc.en.txt").read_text(encoding="utf-8")
    lengths = [int(length) for length in options.lengths.split(",")]
    engine = {"threads": options.threads} if options.threads else {}

    def measured(point: Point) -> None:
        seen.append(point)
        windows = point.length / seen[0].length
        name = f"{point.length} tokens, {windows:g} windows"
        if len(seen) == 1:
            report.say(f"native window of {point.length}: perplexity {point.perplexity:.3f}")
        elif point.alpha == 1.0:
            report.check(f"{name}, without NTK (ratio)", point.ratio, least=2.0)
        else:
            report.check(f"{name}, adaptive NTK (ratio)", point.ratio, most=bar_for(windows))

    seen: list[Point] = []
    points: list[tuple[int, Alpha]] = [(lengths[0], 1.0), *((length, "auto") for length in lengths)]
    curve(options.model, text, points, tail=options.tail, on_point=measured, **engine)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
