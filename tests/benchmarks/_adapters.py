"""One model with both adapters over it, and how fast it writes. Part of `adapters.py`."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
from llama_index.core.llms import ChatMessage

from hanpaca import load
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

    def ticks(self) -> float:
        """How often the event loop gets round, at most a hundred times a second, while an answer is awaited."""

        async def counted() -> float:
            count, answer, start = 0, asyncio.create_task(self.chat.ainvoke(question())), time.perf_counter()
            while not answer.done():
                await asyncio.sleep(0.01)
                count += 1
            return count / (time.perf_counter() - start)

        return asyncio.run(counted())

    def close(self) -> None:
        self.model.close()
        self.chat.loaded().close()
        self.llm.loaded().close()
