"""The LlamaIndex model on an event loop: it keeps ticking, whoever leaves stops it, batches equal single answers."""

import asyncio
from pathlib import Path

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index_models import Story, exact, llm
from loops import ENDLESS, slow, stops_soon, ticking

from hanpaca.core import model as core_model

pytestmark = pytest.mark.usefixtures("smollm2")
STORY = [ChatMessage("Write a very long story about a llama.")]


async def test_the_loop_keeps_ticking_while_it_writes() -> None:
    model = llm(max_tokens=150, logit_bias=ENDLESS)
    await model.acomplete("hello", max_tokens=1)
    async with ticking() as ticks:
        await model.achat(STORY)
    assert ticks.steady
    async with ticking() as ticks:
        async for _ in await model.astream_complete("Write a long story."):
            pass
    assert ticks.steady


async def test_the_loop_keeps_ticking_while_it_loads(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, core_model, "open_engine")
    async with ticking() as ticks:
        await exact(tiny, max_tokens=1).apredict(PromptTemplate("hello"))
        async for _ in await exact(tiny, max_tokens=1, seed=1).astream(PromptTemplate("hello")):
            pass
    assert ticks.longest < 0.4


@pytest.mark.parametrize("method", ["achat", "acomplete", "astructured_predict"])
async def test_a_cancelled_call_stops_the_model(method: str) -> None:
    model = llm(max_tokens=4000, context=8192, logit_bias=ENDLESS)
    await model.acomplete("hello", max_tokens=1)
    work = {
        "achat": lambda: model.achat(STORY),
        "acomplete": lambda: model.acomplete("Write a very long story."),
        "astructured_predict": lambda: model.astructured_predict(Story, PromptTemplate("Write a very long story.")),
    }[method]
    task = asyncio.create_task(work())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stops_soon(model.loaded().engine)


async def test_a_stream_that_nobody_reads_on_stops_the_model() -> None:
    model = llm(max_tokens=4000, context=8192, logit_bias=ENDLESS)
    async for _ in await model.astream_chat(STORY):
        break
    assert await stops_soon(model.loaded().engine)
    for _ in model.stream_chat(STORY):
        break
    assert await stops_soon(model.loaded().engine)


async def test_a_cancelled_reader_stops_the_model() -> None:
    model = llm(max_tokens=4000, context=8192, logit_bias=ENDLESS)

    async def read() -> None:
        async for _ in await model.astream_complete("Write a very long story."):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stops_soon(model.loaded().engine)


async def test_eight_at_once_equal_eight_alone(tiny: Path) -> None:
    model = exact(tiny, temperature=1.0, seed=1, logit_bias=ENDLESS)
    questions = [[ChatMessage("the tea " * (number + 1))] for number in range(8)]
    alone = [model.chat(question).message.content for question in questions]
    together = await asyncio.gather(*[model.achat(question) for question in questions])
    assert [response.message.content for response in together] == alone
    assert len(set(alone)) > 1
