"""The LlamaIndex model: real answers of SmolLM2, exact ones of tiny F32 models."""

import asyncio
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMChatStartEvent,
    LLMStructuredPredictEndEvent,
)
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index_models import FRANCE, Animal, exact, llm, plain
from loops import ENDLESS, chinese_model

from hanpaca import Sampling
from hanpaca.core.errors import BadInput, ContextOverflow, ModelNotFound, TimedOut
from hanpaca.integrations.llama_index import HanpacaEmbedding, HanpacaLLM, HanpacaRetriever

pytestmark = pytest.mark.usefixtures("smollm2")
STORY = [ChatMessage("Write a very long story about a llama.")]


# -- options --------------------------------------------------------------------------------------------------------


def test_every_sampling_setting_is_an_option() -> None:
    assert set(Sampling.names()) <= set(HanpacaLLM.model_fields)


@pytest.mark.parametrize(
    ("cls", "wrong", "near"),
    [(HanpacaLLM, "modle", "model"), (HanpacaEmbedding, "modle_name", "model_name")],
)
def test_an_unknown_option_is_refused_with_the_near_one(cls: type, wrong: str, near: str) -> None:
    with pytest.raises(BadInput, match=f"Did you mean {near}"):
        cls(**{wrong: "smollm2"})


def test_a_retriever_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Valid: callback_manager"):
        HanpacaRetriever(tmp_path, top=3)
    with pytest.raises(BadInput, match="at least 1"):
        HanpacaRetriever(tmp_path, k=0)


def test_wrong_settings_are_refused_when_built_and_when_called() -> None:
    with pytest.raises(BadInput, match="temperature"):
        llm(temperature=-1)
    with pytest.raises(BadInput, match="max_tokens"):
        llm().chat(FRANCE, max_token=3)


def test_building_loads_nothing_and_objects_share_weights(tiny: Path) -> None:
    objects = [exact(tiny, seed=number) for number in range(10)]
    assert not any(object_._models for object_ in objects)
    objects[0].complete("a", max_tokens=1)
    objects[1].complete("a", max_tokens=1)
    assert objects[0].loaded().engine._shared is objects[1].loaded().engine._shared


def test_errors_surface_as_themselves() -> None:
    with pytest.raises(ModelNotFound):
        llm(model="no-such-model").chat(FRANCE)
    with pytest.raises(ModelNotFound):
        asyncio.run(llm(model="no-such-model").achat(FRANCE))
    with pytest.raises(ContextOverflow):
        llm(context=512).complete("word " * 600)
    with pytest.raises(TimedOut):
        llm(max_tokens=4000, timeout=0.2).chat(STORY, logit_bias=ENDLESS)


def test_metadata_is_true_to_the_model(counting: Any, tmp_path: Path, data: Path) -> None:
    assert llm().metadata == LLMMetadata(
        context_window=counting.context_length, num_output=24, is_chat_model=True, model_name="smollm2"
    )
    assert llm(context=1024, max_tokens=None).metadata.context_window == 1024
    assert llm(context=1024, max_tokens=None).metadata.num_output == 256
    base = chinese_model(tmp_path / "chinese-llama-2-x.gguf", data)
    assert exact(base).metadata.model_name == str(base)


def test_a_copy_in_another_process_loads_its_own(tiny: Path) -> None:
    model = exact(tiny, seed=7, stop="x")
    text = model.complete("a").text
    copy = pickle.loads(pickle.dumps(model))
    assert not copy._models
    assert copy.model_dump() == model.model_dump()
    assert copy.complete("a").text == text
    again = HanpacaLLM.from_dict(model.to_dict())
    assert again.complete("a").text == text


# -- the eight methods ----------------------------------------------------------------------------------------------


async def eight(model: LLM) -> list[Any]:
    """The last response of each method, to one question."""
    question = FRANCE[0].content or ""

    async def last(stream: Any) -> Any:
        return [response async for response in await stream][-1]

    return [
        model.chat(FRANCE),
        model.complete(question),
        list(model.stream_chat(FRANCE))[-1],
        list(model.stream_complete(question))[-1],
        await model.achat(FRANCE),
        await model.acomplete(question),
        await last(model.astream_chat(FRANCE)),
        await last(model.astream_complete(question)),
    ]


async def test_all_eight_methods_give_the_same_answer(tiny: Path) -> None:
    model = exact(tiny)
    answers = await eight(model)
    texts = [getattr(answer, "text", None) or answer.message.content for answer in answers]
    assert len(set(texts)) == 1
    assert texts[0]
    assert all(answer.raw["finish_reason"] == answers[0].raw["finish_reason"] for answer in answers)
    usages = [answer.raw["usage"] for answer in answers]
    assert {usage["prompt_tokens"] for usage in usages} == {model.loaded().count_tokens([plain(FRANCE[0])])}
    assert {usage["completion_tokens"] for usage in usages} == {usages[0]["completion_tokens"]}
    assert usages[0]["total_tokens"] == usages[0]["prompt_tokens"] + usages[0]["completion_tokens"]


async def test_smollm2_answers_through_all_eight() -> None:
    for answer in await eight(llm()):
        assert "Paris" in str(answer)


def test_streamed_pieces_grow_into_the_answer(tiny: Path) -> None:
    responses = list(exact(tiny).stream_chat(FRANCE))
    text = ""
    for response in responses:
        text += response.delta or ""
        assert response.message.content == text
    assert [response.raw is None for response in responses] == [True] * (len(responses) - 1) + [False]
    assert text == exact(tiny).chat(FRANCE).message.content


def test_settings_of_a_call_are_honoured_and_never_changed() -> None:
    model, given = llm(stop=["never"]), {"max_tokens": 3, "stop": ["zzz"], "logit_bias": {5: 1.0}}
    before = {**given, "stop": ["zzz"], "logit_bias": {5: 1.0}}
    assert model.chat(STORY, **given).raw["usage"]["completion_tokens"] == 3
    assert given == before
    kwargs = {"max_tokens": 40}
    model.structured_predict(Animal, PromptTemplate("Describe a llama."), kwargs)
    assert kwargs == {"max_tokens": 40}
    assert model.stop == ["never"]


def test_a_call_may_name_another_model(tiny: Path) -> None:
    response = llm().chat(FRANCE, model=str(tiny))
    assert response.raw["model"] == str(tiny)


def test_log_probabilities() -> None:
    response = llm(max_tokens=3, logprobs=2).chat(FRANCE)
    assert response.logprobs
    assert all(len(entries) == 3 and entries[0].logprob <= 0 for entries in response.logprobs)
    streamed = [entry for r in llm(max_tokens=3, logprobs=2).stream_chat(FRANCE) for entry in r.logprobs or []]
    assert [entries[0].token for entries in streamed] == [entries[0].token for entries in response.logprobs]


# -- stops ----------------------------------------------------------------------------------------------------------


def test_stop_texts_of_constructor_and_call_both_stop(tiny: Path) -> None:
    prompt, options = "the tea", {"logit_bias": ENDLESS, "max_tokens": 80}
    text = exact(tiny, **options).complete(prompt).text
    first, second = re.findall(r"[!-~]{3,}", text)[:2]
    assert text.index(first) < text.index(second)
    model = exact(tiny, stop=[second], **options)
    assert model.complete(prompt).text == text[: text.index(second)]
    stopped = model.complete(prompt, stop=[first])
    assert stopped.text == text[: text.index(first)]
    assert stopped.raw["finish_reason"] == "stop"


async def test_a_chinese_stop_text_over_several_tokens_never_shows(tmp_path: Path, data: Path) -> None:
    model = exact(chinese_model(tmp_path / "zh.gguf", data), max_tokens=80, logit_bias=ENDLESS)
    text = model.complete("你好").text
    stop = text[40:48]
    assert len(model.loaded().engine.tokenize(stop)) > 1
    assert any("\u4e00" <= character <= "\u9fff" for character in stop)
    expected = text[: text.index(stop)]
    pieces = [response.delta or "" for response in model.stream_complete("你好", stop=[stop])]
    assert "".join(pieces) == expected
    assert "�" not in "".join(pieces)
    asynchronous = [response async for response in await model.astream_complete("你好", stop=[stop])]
    assert asynchronous[-1].text == expected


# -- callbacks ------------------------------------------------------------------------------------------------------


def test_callbacks_and_token_counts_see_every_call(counting: Any) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    counter = TokenCountingHandler(tokenizer=counting.engine.tokenize)
    model = llm(callback_manager=CallbackManager([debug, counter]))
    answer = model.chat(FRANCE)
    list(model.stream_complete("Name a colour."))
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 2
    usage = answer.raw["usage"]
    assert counter.llm_token_counts[0].prompt_token_count == usage["prompt_tokens"]
    assert counter.llm_token_counts[0].completion_token_count == usage["completion_tokens"]


class Heard(BaseEventHandler):
    """Instrumentation events, in order."""

    events: list[Any] = []  # noqa: RUF012  # a Pydantic field

    @classmethod
    def class_name(cls) -> str:
        return "Heard"

    def handle(self, event: Any, **_: Any) -> None:
        self.events.append(event)


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler, root = Heard(events=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


async def test_instrumentation_hears_starts_pieces_and_ends(heard: Heard) -> None:
    async for _ in await llm(max_tokens=8).astream_chat(FRANCE):
        pass
    kinds = [type(event) for event in heard.events]
    assert kinds[0] is LLMChatStartEvent
    assert LLMChatInProgressEvent in kinds
    assert kinds[-1] is LLMChatEndEvent
    assert heard.events[0].model_dict["model_name"] == "smollm2"
    llm(max_tokens=60).structured_predict(Animal, PromptTemplate("Describe a llama."))
    assert [event.output for event in heard.events if isinstance(event, LLMStructuredPredictEndEvent)]


def test_what_traces_show_loads_nothing() -> None:
    model = llm()
    assert model.to_payload()["model_name"] == "smollm2"
    assert not model._models
