"""What the LangChain and LlamaIndex adapters cost over the engine alone, and peers on the same file, in one run.

    python tests/benchmarks/adapters.py [--json] [--part NAME]

Each figure is a ratio of medians of interleaved runs. Peers are measured where they are installed: llama-cpp-python
in a plain loop, llama-index-llms-llama-cpp in this process, langchain-llama-cpp with llama-cpp-python's server.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _random_models as random_models
import psutil
from _adapter_peers import peers
from _adapters import OPTIONS, Adapters, question
from _rates import median_ratio
from _report import Report
from llama_index.core.llms import ChatMessage

from hanpaca.core.catalog import resolve
from hanpaca.integrations.langchain import ChatHanpaca
from hanpaca.integrations.llama_index import HanpacaLLM

RUNS = 5


def overhead(report: Report, name: str, adapters: Adapters) -> None:
    """Tokens per second of one stream through each adapter, of the engine's own."""
    for label, stream in (
        ("ChatHanpaca.stream", adapters.langchain_stream),
        ("LlamaIndex stream_chat", adapters.llama_index_stream),
    ):
        mine, alone, ratio = median_ratio(stream, adapters.engine_stream, RUNS)
        report.say(f"  {name}: {label} {mine:.1f} tokens/s, the engine alone {alone:.1f}")
        report.check(f"{name} {label} / engine", ratio, least=0.97)


def batches(report: Report, name: str, adapters: Adapters, *, loop: float | None, engine: float | None) -> None:
    """Eight questions by `abatch`, one after the other, and by the engine's own batch."""
    if loop is not None:
        *_, ratio = median_ratio(adapters.abatch, adapters.loop, 3)
        report.check(f"{name} abatch of 8 / loop of 8", ratio, least=loop)
    if engine is not None:
        *_, ratio = median_ratio(adapters.abatch, adapters.engine_batch, RUNS)
        report.check(f"{name} abatch of 8 / the engine's batch", ratio, least=engine)


def memory(path: Path) -> float:
    """Resident memory with both adapters in use over that with one. Run in a process of its own."""
    process, both = psutil.Process(), Adapters.__new__(Adapters)
    common: dict[str, Any] = {"model": str(path), "context": 2048, "load_options": OPTIONS}
    common |= {"max_tokens": 64, "temperature": 0}
    both.chat = ChatHanpaca(**common)
    for _ in range(4):
        both.chat.invoke(question())
    gc.collect()
    one = process.memory_info().rss
    both.llm = HanpacaLLM(**common)
    for _ in range(4):
        both.llm.chat([ChatMessage(question())])
    gc.collect()
    return process.memory_info().rss / one


PARTS = ("overhead", "memory", "large")


def main() -> int:
    report = Report("adapters", __doc__ or "")
    report.parser.add_argument("--part", action="append", choices=PARTS, help="only this part; repeatable")
    report.parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    options = report.parse()
    if options.memory:
        print(memory(options.memory))
        return 0
    smollm2 = resolve("smollm2").path
    assert smollm2 is not None
    work: dict[str, Callable[[Report, Path], None]] = {"overhead": small, "memory": sizes, "large": large}
    for part in options.part or PARTS:
        work[part](report, smollm2)
    return report.end()


def small(report: Report, smollm2: Path) -> None:
    """What the adapters cost, and the peers."""
    adapters = Adapters(smollm2, 128)
    overhead(report, "smollm2", adapters)
    ticks = sorted(adapters.ticks() for _ in range(RUNS))[RUNS // 2]
    report.check("smollm2 ticks of 10 ms of the event loop in a second of ainvoke", ticks, least=50)
    batches(report, "smollm2", adapters, loop=None, engine=0.9)
    peers(report, "smollm2", smollm2, adapters, 128)
    adapters.close()


def sizes(report: Report, smollm2: Path) -> None:
    """Memory, in a process of its own."""
    command = [sys.executable, __file__, "--memory", str(smollm2)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    report.check("smollm2 memory of two adapters / of one", float(ran.stdout.split()[-1]), most=1.05)


def large(report: Report, smollm2: Path) -> None:
    """What a batch gains where weights are large."""
    with tempfile.TemporaryDirectory() as folder:
        path = random_models.write_q4_0(Path(folder) / "random-1.3b.gguf")
        adapters = Adapters(path, 96)
        batches(report, "random-1.3b", adapters, loop=2.0, engine=None)
        adapters.close()


if __name__ == "__main__":
    sys.exit(main())
