"""Other adapters over llama.cpp on the same file, each against ours for the same framework. Part of `adapters.py`."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _adapters import OPTIONS, Adapters, question, rate, timed
from _rates import median_ratio
from _report import Report
from llama_index.core.llms import ChatMessage

RUNS = 5


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
