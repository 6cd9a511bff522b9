"""What every benchmark shares: its options, and its checks printed as a table or as one JSON object."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any


class Report:
    """The checks of one benchmark. Progress goes to stderr, results to stdout."""

    def __init__(self, benchmark: str, description: str) -> None:
        self.benchmark = benchmark
        self.parser = argparse.ArgumentParser(description=description)
        self.parser.add_argument("--data", type=Path, default=os.environ.get("HANPACA_DATA"), help="the data folder")
        self.parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
        self.checks: list[dict[str, Any]] = []

    def parse(self) -> argparse.Namespace:
        """The command line's options."""
        self.options = self.parser.parse_args()
        return self.options

    def say(self, text: str) -> None:
        """Progress, for whoever waits."""
        print(text, file=sys.stderr, flush=True)

    def check(self, name: str, value: float, *, least: float | None = None, most: float | None = None) -> None:
        """One figure with its bar: at least `least`, or at most `most`; a figure without a bar is only reported."""
        ok = (least is None or value >= least) and (most is None or value <= most)
        bar = f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else None
        self.checks.append({"name": name, "value": round(value, 4), "bar": bar, "ok": ok})
        self.say(f"{'ok  ' if ok else 'MISS'}  {name}: {value:.4g}" + (f"  ({bar})" if bar else ""))

    def end(self) -> int:
        """Print the result; the exit code."""
        if self.options.json:
            print(json.dumps({"benchmark": self.benchmark, "checks": self.checks}, ensure_ascii=False))
        return 0 if all(check["ok"] for check in self.checks) else 1
