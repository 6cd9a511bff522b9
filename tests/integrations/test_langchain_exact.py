"""The LangChain models on tiny F32 files, where answers are exact; caches, limits, stops, traces."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import write_gguf
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    trim_messages,
)
from langchain_core.rate_limiters import BaseRateLimiter
from loops import ENDLESS, EXACT, chatml_model, chinese_model, crowd, slow, stops_soon, ticking, wire

from hanpaca.core import model as core_model
from hanpaca.core.errors import Busy, ContextOverflow, TimedOut, UnsupportedFeature
from hanpaca.integrations.langchain import ChatHanpaca, HanpacaLLM

USUAL = {"temperature": 0, "max_tokens": 24, "load_options": EXACT}


@pytest.fixture
def chat(tiny: Path) -> Callable[..., ChatHanpaca]:
    return lambda **options: ChatHanpaca(**{"model": str(tiny), **USUAL, **options})


@pytest.fixture
def llm(tiny: Path) -> Callable[..., HanpacaLLM]:
    return lambda **options: HanpacaLLM(**{"model": str(tiny), **USUAL, **options})


Chat = Callable[..., ChatHanpaca]
Text = Callable[..., HanpacaLLM]
QUESTIONS: list[Any] = ["the tea " * (number + 1) for number in range(8)]
VARIED = {"temperature": 1.0, "seed": 1, "logit_bias": ENDLESS}


# -- batches --------------------------------------------------------------------------------------------------------


async def test_eight_at_once_equal_eight_alone(chat: Chat, llm: Text) -> None:
    model, text_model = chat(**VARIED), llm(**VARIED)
    alone = [model.invoke(question).text for question in QUESTIONS]
    assert len(set(alone)) > 1
    assert [answer.text for answer in await model.abatch(QUESTIONS)] == alone
    assert [answer.text for answer in model.batch(QUESTIONS)] == alone
    assert await text_model.abatch(QUESTIONS) == alone
    assert text_model.batch(QUESTIONS) == alone


async def test_batches_are_together_and_max_concurrency_is_kept(
    chat: Chat, llm: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text_model = chat(**VARIED), llm(**VARIED)
    counted = crowd(model.loaded().engine, monkeypatch)
    await model.abatch(QUESTIONS)
    assert counted.most > 2
    counted.most = 0
    await model.abatch(QUESTIONS, {"max_concurrency": 2})
    model.batch(QUESTIONS, {"max_concurrency": 2})
    assert counted.most <= 2
    counted = crowd(text_model.loaded().engine, monkeypatch)
    text_model.batch(QUESTIONS)
    assert counted.most > 2


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_batch_may_be_longer_than_the_queue_and_a_single_call_hears_busy(chat: Chat, streaming: bool) -> None:
    model = chat(max_tokens=2, load_options={**EXACT, "running": 1, "queue": 1}, streaming=streaming)
    assert all(answer.text for answer in await model.abatch(QUESTIONS))
    assert all(answer.text for answer in model.batch(QUESTIONS))
    told = await model.agenerate([[HumanMessage(question)] for question in QUESTIONS])
    assert len(told.generations) == len(QUESTIONS)
    alone = await asyncio.gather(*map(model.ainvoke, QUESTIONS), return_exceptions=True)
    assert any(isinstance(answer, Busy) for answer in alone)


def test_two_objects_share_the_weights(chat: Chat, llm: Text) -> None:
    assert chat().loaded().engine._shared is llm(seed=3).loaded().engine._shared  # type: ignore[attr-defined]


# -- stops ----------------------------------------------------------------------------------------------------------


async def test_a_chinese_stop_text_over_several_tokens_never_shows(tmp_path: Path, data: Path) -> None:
    file = chinese_model(tmp_path / "zh.gguf", data)
    options = {"model": str(file), **USUAL, "max_tokens": 80, "logit_bias": ENDLESS}
    for model in (ChatHanpaca(**options), HanpacaLLM(**options)):
        whole = model.invoke("你好")
        text = whole if isinstance(whole, str) else whole.text
        stop = text[40:48]
        assert len(model.loaded().engine.tokenize(stop)) > 1
        assert any("\u4e00" <= character <= "\u9fff" for character in stop)
        expected = text[: text.index(stop)]
        pieces = [p if isinstance(p, str) else p.text for p in model.stream("你好", stop=[stop])]
        assert "".join(pieces) == expected
        pieces = [p if isinstance(p, str) else p.text async for p in model.astream("你好", stop=[stop])]
        assert "".join(pieces) == expected
        stopped = await model.ainvoke("你好", stop=[stop])
        assert (stopped if isinstance(stopped, str) else stopped.text) == expected


async def test_stop_texts_of_constructor_and_call_both_stop(llm: Text) -> None:
    options = {"logit_bias": ENDLESS, "max_tokens": 80}
    text = llm(**options).invoke("the tea")
    first, second = re.findall(r"[!-~]{3,}", text)[:2]
    model = llm(stop=[second], **options)
    assert model.invoke("the tea") == text[: text.index(second)]
    assert model.invoke("the tea", stop=[first]) == text[: text.index(first)]
    assert await model.ainvoke("the tea", stop=["no such text"], seed=1) == text[: text.index(second)]


# -- asynchronous ---------------------------------------------------------------------------------------------------


async def test_the_loop_keeps_ticking_while_a_model_loads(
    chat: Chat, llm: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, core_model, "open_engine")
    for build in (chat, llm):
        async with ticking() as ticks:
            await build().ainvoke("the tea", max_tokens=1)
        assert ticks.seconds > 0.7
        assert ticks.longest < 0.4
        async with ticking() as ticks:
            [piece async for piece in build().astream("the tea", max_tokens=1)]
        assert ticks.longest < 0.4


@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize("kind", [ChatHanpaca, HanpacaLLM])
async def test_whoever_leaves_stops_the_model(kind: type[Any]) -> None:
    model = kind(model="smollm2", context=8192, max_tokens=4000, logit_bias=ENDLESS, load_options={"threads": 1})
    await model.ainvoke("hello", max_tokens=1)

    async def read() -> None:
        async for _ in model.astream("Write a very long story."):
            pass

    for work in (model.ainvoke("Write a very long story."), model.abatch(["a", "b"]), read()):
        task = asyncio.ensure_future(work)
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await stops_soon(model.loaded().engine)
    for _ in model.stream("Write a very long story."):
        break
    assert await stops_soon(model.loaded().engine)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(model.ainvoke("Write a very long story."), 0.5)
    assert await stops_soon(model.loaded().engine)


# -- prompts --------------------------------------------------------------------------------------------------------


def test_one_bos_on_the_wire(chat: Chat, llm: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = HanpacaLLM(**{"model": str(write_gguf(tmp_path / "base.gguf", context=1024)), **USUAL})
    for model in (chat(), llm(), llm(raw=True), base):
        engine = model.loaded().engine
        sent = wire(engine, monkeypatch)
        model.invoke("the tea")
        assert list(sent[0].tokens).count(engine.vocabulary.bos) == 1
        assert sent[0].tokens[0] == engine.vocabulary.bos
        monkeypatch.undo()


def test_a_conversation_is_trimmed_by_the_models_own_count(chat: Chat) -> None:
    model = chat()
    assert model.get_num_tokens_from_messages([]) == 0
    messages = [SystemMessage("s"), HumanMessage("the tea " * 20), AIMessage("b " * 20), HumanMessage("d")]
    few = model.get_num_tokens_from_messages([messages[0], messages[-1]])
    options: Any = {"token_counter": model, "strategy": "last", "include_system": True}
    assert trim_messages(messages, max_tokens=2 * few, **options) == [messages[0], messages[-1]]
    assert trim_messages(messages, max_tokens=10_000, **options) == messages
    assert trim_messages(messages[1:], max_tokens=1, allow_partial=True, **options) == []
    late = [*messages[1:3], SystemMessage("s"), messages[-1]]
    assert trim_messages(late, max_tokens=10_000, token_counter=model, strategy="first") == late
    assert trim_messages(late, max_tokens=4 * few, token_counter=model, strategy="first") == late[:1]


def test_double_answers_are_one(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat()
    sent = wire(model.loaded().engine, monkeypatch)
    model.invoke([SystemMessage("s"), HumanMessage("a"), AIMessage("b"), AIMessage("c"), HumanMessage("d")])
    model.invoke([SystemMessage("s"), HumanMessage("a"), AIMessage("b\n\nc"), HumanMessage("d")])
    assert list(sent[0].tokens) == list(sent[1].tokens)


def test_a_base_model_gets_the_prompt_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = HanpacaLLM(**{"model": str(write_gguf(tmp_path / "base.gguf", context=1024)), **USUAL})
    engine = model.loaded().engine
    sent = wire(engine, monkeypatch)
    model.invoke("the tea")
    assert list(sent[0].tokens) == [engine.vocabulary.bos, *engine.tokenize("the tea")]


def test_errors_surface_as_themselves(chat: Chat) -> None:
    with pytest.raises(ContextOverflow):
        chat(context=64).invoke("the " * 100)
    with pytest.raises(ContextOverflow):
        list(chat(context=64).stream("the " * 100))
    with pytest.raises(TimedOut):
        asyncio.run(chat(max_tokens=1900, timeout=1e-4, logit_bias=ENDLESS).ainvoke("the tea"))
    with pytest.raises(UnsupportedFeature, match="uniqueItems"):
        chat().invoke("a", json_schema={"type": "array", "uniqueItems": True})


# -- caches, limits, traces -----------------------------------------------------------------------------------------


def test_cache_keys_tell_models_apart(chat: Chat, tmp_path: Path) -> None:
    other = chatml_model(tmp_path / "other.gguf", seed=1)
    keys = [
        chat()._get_llm_string(),
        chat(model=str(other))._get_llm_string(),
        chat()._get_llm_string(model=str(other)),
        chat()._get_llm_string(stop=["x"]),
        chat()._get_llm_string(max_tokens=3),
        chat(stop=["y"])._get_llm_string(stop=["x"]),
        chat(load_options={**EXACT, "alpha": 3.0})._get_llm_string(),
    ]
    assert len(set(keys)) == len(keys)
    before = chat()._get_llm_string()
    time.sleep(0.02)
    Path(chat().model).touch()  # the same name, and another file
    assert chat()._get_llm_string() != before


async def test_a_cache_serves_asynchronous_calls_and_the_text_model_too(
    chat: Chat, llm: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in (chat(cache=InMemoryCache()), llm(cache=InMemoryCache())):
        sent = wire(model.loaded().engine, monkeypatch)
        first = await model.ainvoke("the tea")
        again = await model.ainvoke("the tea")
        assert getattr(first, "text", first) == getattr(again, "text", again)
        assert len(sent) == 1
        await model.ainvoke("the tea", max_tokens=3)
        model.invoke("the tea", seed=3)
        model.invoke("the tea", seed=3)
        assert len(sent) == 3


class Counted(BaseRateLimiter):
    """Lets everybody through, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.asked += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire()


async def test_a_rate_limiter_is_asked_before_each_call(chat: Chat) -> None:
    limiter = Counted()
    model = chat(rate_limiter=limiter)
    model.invoke("a")
    list(model.stream("a"))
    await model.ainvoke("a")
    await model.abatch(["a", "b"])
    assert limiter.asked == 5


class Heard(BaseCallbackHandler):
    """What callbacks are told."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.ended: list[Any] = []
        self.failed: list[BaseException] = []
        self.metadata: dict[str, Any] = {}

    def on_chat_model_start(self, *_: Any, metadata: dict[str, Any] | None = None, **__: Any) -> None:
        self.metadata = metadata or {}

    def on_llm_new_token(self, token: str | list[str | dict[str, Any]], **_: Any) -> None:
        assert isinstance(token, str)
        self.tokens.append(token)

    def on_llm_end(self, response: Any, **_: Any) -> None:
        self.ended.append(response)

    def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.failed.append(error)


def text_of(piece: AIMessageChunk | str) -> str:
    return piece if isinstance(piece, str) else str(piece.text)


async def test_callbacks_hear_pieces_ends_and_errors(chat: Chat, llm: Text) -> None:
    for model in (chat(seed=5), llm()):
        heard = Heard()
        config: Any = {"callbacks": [heard]}
        text = "".join(text_of(piece) for piece in model.stream("the tea", config))
        assert "".join(heard.tokens) == text
        heard.tokens.clear()
        assert "".join([text_of(piece) async for piece in model.astream("the tea", config)]) == text
        assert "".join(heard.tokens) == text
        assert len(heard.ended) == 2
        with pytest.raises(ContextOverflow):
            await model.ainvoke("the " * 4000, config)
        assert isinstance(heard.failed[0], ContextOverflow)
    heard = Heard()
    chat(streaming=True).invoke("the tea", {"callbacks": [heard]})
    assert heard.tokens
    assert heard.metadata["ls_provider"] == "hanpaca"
    assert heard.metadata["ls_temperature"] == 0


async def test_events_of_a_stream(chat: Chat) -> None:
    events = [event async for event in chat().astream_events("the tea", version="v2")]
    names = [event["event"] for event in events]
    assert names[0] == "on_chat_model_start"
    assert names[-1] == "on_chat_model_end"
    pieces = [event["data"]["chunk"].text for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(pieces) == events[-1]["data"]["output"].text == chat().invoke("the tea").text


def test_the_profile_is_known_without_loading(chat: Chat) -> None:
    model = chat()
    assert model.profile
    assert model.profile["max_input_tokens"] == 2048
    assert model.profile["structured_output"] is True
    assert model.profile["tool_calling"] is False
    assert not model._models
    published = ChatHanpaca(model="chinese-alpaca-2-7b-16k").profile
    assert published
    assert published["max_input_tokens"] == 16_384
    assert (ChatHanpaca(model="chinese-alpaca-2-7b", context=12_288).profile or {})["max_input_tokens"] == 12_288
    assert "max_input_tokens" not in (ChatHanpaca(model="no-such-model").profile or {})
