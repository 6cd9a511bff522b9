"""What the LangChain and LlamaIndex adapters cost over the engine alone, and peers on the same file, in one run.

    python tests/benchmarks/adapters.py [--json]

Each figure is a ratio of medians of interleaved runs. Peers are measured where they are installed: llama-cpp-python
in a plain loop, llama-index-llms-llama-cpp in this process, langchain-llama-cpp with llama-cpp-python's server.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import _random_models as random_models
import psutil
from _report import Report
from engine import median_ratio
from llama_index.core.llms import ChatMessage

from hanpaca import load
from hanpaca.core.catalog import resolve
from hanpaca.integrations.langchain import ChatHanpaca
from hanpaca.integrations.llama_index import HanpacaLLM

OPTIONS: dict[str, Any] = {"tuned": False, "threads": psutil.cpu_count(logical=False) or 1}
RUNS = 5
numbers = itertools.count()


def question() -> str:
    """One that was not asked before: nothing of it is cached but the template."""
    return f"Number {next(numbers)}: write a long story about a llama."


def rate(pieces: Iterable[object]) -> float:
    """Pieces per second after the first one, which waits for the prompt."""
    iterator = iter(pieces)
    next(iterator)
    start = time.perf_counter()
    return sum(1 for _ in iterator) / (time.perf_counter() - start)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Adapters:
    """A model, and both adapters over it, with the same settings."""

    def __init__(self, path: Path, new: int) -> None:
        self.model = load(path, context=2048, **OPTIONS)
        bias = {token: float("-inf") for token in self.model.engine.vocabulary.ends}
        self.settings: dict[str, Any] = {
            "max_tokens": new, "temperature": 0, "repetition_penalty": 1.0, "logit_bias": bias,
        }  # fmt: skip
        common: dict[str, Any] = {"model": str(path), "context": 2048, "load_options": OPTIONS, **self.settings}
        self.chat, self.llm = ChatHanpaca(**common), HanpacaLLM(**common)

    def engine_stream(self) -> float:
        return rate(self.model.stream_chat([{"role": "user", "content": question()}], **self.settings))

    def langchain_stream(self) -> float:
        return rate(self.chat.stream(question()))

    def llama_index_stream(self) -> float:
        return rate(self.llm.stream_chat([ChatMessage(question())]))

    def abatch(self) -> float:
        asked: list[Any] = [question() for _ in range(8)]
        return 1 / timed(lambda: asyncio.run(self.chat.abatch(asked)))

    def loop(self) -> float:
        return 1 / timed(lambda: [self.chat.invoke(question()) for _ in range(8)])

    def engine_batch(self) -> float:
        asked = [[{"role": "user", "content": question()}] for _ in range(8)]
        return 1 / timed(lambda: self.model.chat_batch(asked, **self.settings))

    def close(self) -> None:
        self.model.close()
        self.chat.loaded().close()
        self.llm.loaded().close()


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


def peers(report: Report, name: str, path: Path, adapters: Adapters, new: int) -> None:
    """Others over llama.cpp on the same file, each against ours for the same framework."""
    import llama_cpp

    raw = llama_cpp.Llama(str(path), n_ctx=2048, n_threads=OPTIONS["threads"], flash_attn=True, verbose=False)

    def plain() -> float:
        raw.reset()
        tokens = raw.generate(raw.tokenize(question().encode()), temp=0.0, top_k=1, repeat_penalty=1.0)
        return rate(itertools.islice(tokens, new))

    compare(report, f"{name} ChatHanpaca.stream / llama-cpp-python's generate", adapters.langchain_stream, plain)
    raw.close()
    llama_index_peer(report, name, path, adapters, new)
    langchain_peer(report, name, path, adapters, new)


def llama_index_peer(report: Report, name: str, path: Path, adapters: Adapters, new: int) -> None:
    if not installed("llama_index.llms.llama_cpp"):
        report.say("  llama-index-llms-llama-cpp is not installed: not measured")
        return
    from llama_index.llms.llama_cpp import LlamaCPP

    bias = {str(token): -100.0 for token in adapters.settings["logit_bias"]}
    peer = LlamaCPP(
        model_path=str(path),
        temperature=0.0,
        max_new_tokens=new,
        context_window=2048,
        model_kwargs={"n_threads": OPTIONS["threads"], "flash_attn": True},
        generate_kwargs={"logit_bias": bias},
        verbose=False,
    )
    label = f"{name} LlamaIndex stream_chat / llama-index-llms-llama-cpp"
    compare(report, label, adapters.llama_index_stream, lambda: rate(peer.stream_complete(question())))
    together: list[Any] = [[ChatMessage(question())] for _ in range(8)]

    async def ours() -> None:
        await asyncio.gather(*[adapters.llm.achat(messages) for messages in together])

    def theirs() -> float:
        # Its asynchronous calls block the loop, and two threads in one model crash: one after the other is all it has.
        return 1 / timed(lambda: [peer.complete(question()) for _ in range(8)])

    label = f"{name} 8 answers of LlamaIndex / llama-index-llms-llama-cpp"
    compare(report, label, lambda: 1 / timed(lambda: asyncio.run(ours())), theirs, runs=3)
    peer._model.close()


def langchain_peer(report: Report, name: str, path: Path, adapters: Adapters, new: int) -> None:
    if not installed("langchain_llama_cpp"):
        report.say("  langchain-llama-cpp is not installed: not measured")
        return
    if not installed("starlette_context"):
        report.say('  langchain-llama-cpp needs a server, pip install "llama-cpp-python[server]": not measured')
        return
    import _peer_server as peer_server
    from langchain_llama_cpp import ChatLlama

    bias = {str(token): -100.0 for token in adapters.settings["logit_bias"]}
    with peer_server.llama_cpp_server(path) as url:
        peer = ChatLlama(base_url=url, model=path.name, temperature=0, max_tokens=new, logit_bias=bias)
        label = f"{name} ChatHanpaca.stream / langchain-llama-cpp"
        compare(report, label, adapters.langchain_stream, lambda: rate(peer.stream(question())))


def compare(
    report: Report, label: str, ours: Callable[[], float], theirs: Callable[[], float], runs: int = RUNS
) -> None:
    """A figure without a bar; a peer that fails is told and left out."""
    try:
        mine, other, ratio = median_ratio(ours, theirs, runs)
    except Exception as error:  # whatever a peer raises
        report.say(f"  {label}: not measured, {type(error).__name__}: {error}")
        return
    report.say(f"  {label}: {mine:.2f} and {other:.2f}")
    report.check(label, ratio)


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def main() -> int:
    report = Report("adapters", __doc__ or "")
    report.parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    options = report.parse()
    if options.memory:
        print(memory(options.memory))
        return 0
    smollm2 = resolve("smollm2").path
    assert smollm2 is not None
    adapters = Adapters(smollm2, 128)
    overhead(report, "smollm2", adapters)
    batches(report, "smollm2", adapters, loop=None, engine=0.9)
    peers(report, "smollm2", smollm2, adapters, 128)
    adapters.close()
    command = [sys.executable, __file__, "--memory", str(smollm2)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    report.check("smollm2 memory of two adapters / of one", float(ran.stdout.split()[-1]), most=1.05)
    with tempfile.TemporaryDirectory() as folder:
        path = random_models.write_q4_0(Path(folder) / "random-1.3b.gguf")
        adapters = Adapters(path, 24)
        batches(report, "random-1.3b", adapters, loop=2.0, engine=None)
        adapters.close()
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
