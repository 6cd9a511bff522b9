"""How long the quick commands take: `hanpaca --help` and `hanpaca models`, from the start of the process to its end.

python tests/benchmarks/cli.py [--json]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from _report import Report

HANPACA = str(Path(sys.executable).with_name("hanpaca"))
RUNS = 15


def seconds(*command: str) -> float:
    """One run."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> int:
    report = Report("cli", "How long the quick commands take.")
    report.parse()
    for words in (["--help"], ["models"]):
        taken = [seconds(HANPACA, *words) for _ in range(RUNS)]
        report.check(f"hanpaca {words[0]}, seconds", statistics.median(taken), most=0.3)
    report.check("an empty Python, seconds", statistics.median(seconds(sys.executable, "-c", "") for _ in range(RUNS)))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
