"""Helpers of the adapters' tests: a loop that must keep ticking, requests on their way to the engine, tiny models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gguf_files import CHATML, Shape, write_gguf

EXACT = {"kv_type": "f32", "flash_attention": False, "threads": 1}
"""Options under which an answer does not depend on what runs beside it, on F32 weights."""
ENDLESS = {2: float("-inf")}
"""Forbids the end of the answer, in SmolLM2 and in the tiny models."""
THIN = Shape(layers=1, hidden=32, ffn=32, heads=2, kv_heads=2)


def chatml_model(path: Path, seed: int = 0) -> Path:
    """A tiny F32 chat model."""
    return write_gguf(
        path, controls=("<|im_start|>", "<|im_end|>"), chat_template=CHATML, context=2048, name="chatml", seed=seed
    )


def chinese_model(path: Path, data: Path) -> Path:
    """A tiny F32 model with the real 55,296-piece tokenizer, which makes it a Llama-2 chat model."""
    tokenizer = data / "tokenizers/chinese-llama2-55296.tokenizer.model"
    return write_gguf(path, tokenizer_model=tokenizer, shape=THIN, context=2048)


def two_slides(path: Path) -> Path:
    """A presentation with two slides."""
    from pptx import Presentation

    presentation = Presentation()
    for title in ("Llamas live in the Andes.", "Alpacas give wool."):
        slide = presentation.slides.add_slide(presentation.slide_layouts[5])
        slide.shapes.title.text = title
    presentation.save(str(path))
    return path


@dataclass
class Ticks:
    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    """Longest time between two ticks, in seconds."""

    @property
    def steady(self) -> bool:
        """A fifth of the ticks that an idle loop makes, 20 a second, but for pauses of half a second in all.

        The machine that tests run on may be busy, so how many there are says little. A loop that waits for the model
        makes no tick at all, and the tests' answers are endless.
        """
        return self.count >= 20 * (self.seconds - 0.5)


@asynccontextmanager
async def ticking() -> AsyncIterator[Ticks]:
    """Counts the 10 ms ticks of the event loop while the body runs."""
    ticks, start = Ticks(), time.perf_counter()

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            ticks.count += 1
            ticks.longest = max(ticks.longest, time.perf_counter() - before)

    task = asyncio.create_task(tick())
    try:
        await asyncio.sleep(0)  # the first tick begins before the body does
        yield ticks
        await asyncio.sleep(0.02)  # and the last one ends after it
    finally:
        task.cancel()
        ticks.seconds = time.perf_counter() - start


def slow(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """From now on a function blocks for 0.7 seconds more, which a loop that waits for it shows in `Ticks.longest`."""
    done: Callable[..., Any] = getattr(owner, name)

    def slowly(*given: Any, **options: Any) -> Any:
        time.sleep(0.7)
        return done(*given, **options)

    monkeypatch.setattr(owner, name, slowly)


def wire(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests that reach the engine from now on."""
    sent: list[Any] = []
    submit = engine.submit

    def recorded(request: Any, listener: Any) -> Any:
        sent.append(request)
        return submit(request, listener)

    monkeypatch.setattr(engine, "submit", recorded)
    return sent


@dataclass
class Crowd:
    """How many requests are at the engine at the same time."""

    now: int = 0
    most: int = 0


def crowd(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    """Counts from now on."""
    counted, submit = Crowd(), engine.submit

    def counting(request: Any, listener: Any) -> Any:
        def hear(event: Any) -> None:
            if isinstance(event, BaseException) or event.finish_reason:
                counted.now -= 1
            listener(event)

        counted.now += 1
        counted.most = max(counted.most, counted.now)
        return submit(request, hear)

    monkeypatch.setattr(engine, "submit", counting)
    return counted


def text_of(engine: Any, request: Any) -> str:
    """The text of a request's prompt, without control tokens."""
    return b"".join(engine.token_bytes(token) for token in request.tokens).decode("utf-8", "replace")


async def stops_soon(engine: Any) -> bool:
    """Whether the engine computes nothing more, after the step under way: one token, or one chunk of a prompt."""
    for _ in range(6):
        before = engine.computed
        await asyncio.sleep(0.5)
        if engine.computed == before:
            return True
    return False


def recorded(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """What a function is called with from now on."""
    done: Callable[..., Any] = getattr(owner, name)
    calls: list[Any] = []

    def recording(*given: Any, **options: Any) -> Any:
        calls.append((given, options))
        return done(*given, **options)

    monkeypatch.setattr(owner, name, recording)
    return calls
