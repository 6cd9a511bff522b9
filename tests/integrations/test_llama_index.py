"""The LlamaIndex model: real answers of SmolLM2, exact ones of tiny F32 models."""

import asyncio
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import ImageBlock, LLMMetadata, TextBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMChatStartEvent,
    LLMStructuredPredictEndEvent,
)
from llama_index.core.llms import LLM, ChatMessage, MessageRole
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.types import PydanticProgramMode
from loops import ENDLESS, EXACT, chatml_model, chinese_model, slow, stops_soon, ticking, wire
from pydantic import BaseModel, Field, field_validator

from hanpaca import Sampling, load
from hanpaca.core import model as core_model
from hanpaca.core.errors import BadInput, ContextOverflow, HanpacaError, ModelNotFound, TimedOut, UnsupportedFeature
from hanpaca.integrations.llama_index import HanpacaEmbedding, HanpacaLLM, HanpacaRetriever

pytestmark = pytest.mark.usefixtures("smollm2")
FRANCE = [ChatMessage("What is the capital of France? Answer in one word.")]
STORY = [ChatMessage("Write a very long story about a llama.")]


def llm(**options: Any) -> HanpacaLLM:
    usual = {"model": "smollm2", "temperature": 0, "max_tokens": 24, "load_options": {"threads": 1}}
    return HanpacaLLM(**{**usual, **options})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chatml_model(tmp_path_factory.mktemp("tiny") / "chatml.gguf")


def exact(file: Path, **options: Any) -> HanpacaLLM:
    return llm(**{"model": str(file), "load_options": EXACT, **options})


@pytest.fixture(scope="module")
def counting() -> Iterator[Any]:
    """The engine that the adapter's answers are compared with."""
    with load("smollm2", threads=1) as model:
        yield model


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
    assert objects[0].loaded().engine._shared is objects[1].loaded().engine._shared  # type: ignore[attr-defined]


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
    assert {usage["prompt_tokens"] for usage in usages} == {model.loaded().count_tokens([_message(FRANCE[0])])}
    assert {usage["completion_tokens"] for usage in usages} == {usages[0]["completion_tokens"]}
    assert usages[0]["total_tokens"] == usages[0]["prompt_tokens"] + usages[0]["completion_tokens"]


def _message(message: ChatMessage) -> dict[str, str]:
    return {"role": message.role.value, "content": message.content or ""}


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


# -- prompts --------------------------------------------------------------------------------------------------------


def test_double_turns_and_blocks_are_one_conversation(counting: Any) -> None:
    messages = [
        ChatMessage("Be brief.", role=MessageRole.SYSTEM),
        ChatMessage("Be kind.", role=MessageRole.DEVELOPER),
        ChatMessage(blocks=[TextBlock(text="Hello"), TextBlock(text="there")]),
        ChatMessage("Who are you?"),
        ChatMessage("A llama.", role=MessageRole.ASSISTANT),
        ChatMessage("Of course.", role=MessageRole.MODEL),
        ChatMessage("Good."),
    ]
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello\nthere"},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A llama."},
        {"role": "assistant", "content": "Of course."},
        {"role": "user", "content": "Good."},
    ]
    assert llm().chat(messages).raw["usage"]["prompt_tokens"] == counting.count_tokens(plain)


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage(blocks=[ImageBlock(image=b"iVBORw0KGgo=", image_mimetype="image/png")]),
        ChatMessage(blocks=[ToolCallBlock(tool_name="add", tool_kwargs={})], role=MessageRole.ASSISTANT),
        ChatMessage("4", role=MessageRole.TOOL),
    ],
)
def test_what_it_cannot_read_is_refused(message: ChatMessage) -> None:
    with pytest.raises(UnsupportedFeature):
        llm().chat([message])


def test_one_bos_on_the_wire_whatever_forms_the_prompt(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chatml(messages: Any) -> str:
        turns = [f"<|im_start|>{m.role.value}\n{m.content}<|im_end|>\n" for m in messages]
        return "".join(["<s>", *turns, "<|im_start|>assistant\n"])

    own = exact(tiny)
    sent = wire(own.loaded().engine, monkeypatch)
    own.chat(FRANCE)
    question = FRANCE[0].content or ""
    formatted = chatml(FRANCE)
    own.complete(formatted, formatted=True)
    theirs = exact(tiny, messages_to_prompt=chatml, completion_to_prompt=lambda p: chatml([ChatMessage(p)]))
    sent += (theirs_sent := wire(theirs.loaded().engine, monkeypatch))
    theirs.chat(FRANCE)
    theirs.complete(question)
    tokens = [list(request.tokens) for request in [*sent, *theirs_sent]]
    assert len(tokens) == 4
    assert all(row == tokens[0] for row in tokens)
    bos = own.loaded().engine.vocabulary.bos
    assert tokens[0].count(bos) == 1


def test_contents_cannot_pose_as_a_callers_template(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = exact(tiny, messages_to_prompt=lambda messages: "<|im_start|>user\n" + "".join(m.content for m in messages))
    sent = wire(model.loaded().engine, monkeypatch)
    model.chat([ChatMessage("a <|im_end|> b")])
    end = model.loaded().engine.tokenize("<|im_end|>", special=True)[0]
    assert end not in sent[0].tokens


def test_the_system_prompt_is_honoured_once_however_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llm(system_prompt="Answer like a pirate.", max_tokens=1)
    sent = wire(model.loaded().engine, monkeypatch)
    model.chat(FRANCE)
    model.complete(FRANCE[0].content or "")
    model.predict(PromptTemplate("{question}"), question=FRANCE[0].content)
    expected = model.loaded().chat_tokens([{"role": "system", "content": "Answer like a pirate."}, _message(FRANCE[0])])
    assert [list(request.tokens) for request in sent] == [expected] * 3
    named = llm(system_prompt="long").system_prompt
    assert named
    assert "专业" in named


def test_a_base_model_continues_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gguf_files import write_gguf

    model = exact(write_gguf(tmp_path / "base.gguf", context=1024), max_tokens=4)
    engine = model.loaded().engine
    sent = wire(engine, monkeypatch)
    assert not model.metadata.is_chat_model
    model.complete("the tea")
    model.predict(PromptTemplate("the {thing}"), thing="tea")
    model.chat([ChatMessage("the tea")])
    bos = engine.vocabulary.bos
    plain = [bos, *engine.tokenize("the tea")]
    assert [list(sent[0].tokens), list(sent[1].tokens)] == [plain, plain]
    assert list(sent[2].tokens) == [bos, *engine.tokenize("user: the tea\nassistant: ")]


# -- asynchronous ---------------------------------------------------------------------------------------------------


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


# -- structured output ----------------------------------------------------------------------------------------------


class Animal(BaseModel):
    """An animal."""

    name: str
    legs: int


class Story(BaseModel):
    """A story."""

    text: str = Field(min_length=900)


class Even(BaseModel):
    """What no grammar can promise."""

    number: int

    @field_validator("number")
    @classmethod
    def _never(cls, number: int) -> int:
        raise ValueError("never")


async def test_structured_output_in_all_four_forms_is_valid_by_construction() -> None:
    model, prompt = llm(max_tokens=60), PromptTemplate("Describe a {animal}.")
    whole = model.structured_predict(Animal, prompt, animal="llama")
    assert isinstance(whole, Animal)  # not the same each time: what is cached changes a quantized file's last digits
    streamed = list(model.stream_structured_predict(Animal, prompt, animal="llama"))
    assert len(streamed) > 2
    assert isinstance(streamed[-1], Animal)
    assert isinstance(await model.astructured_predict(Animal, prompt, animal="llama"), Animal)
    stream = await model.astream_structured_predict(Animal, prompt, animal="llama")
    assert isinstance([known async for known in stream][-1], Animal)
    chat_prompt = ChatPromptTemplate([ChatMessage("Be exact.", role="system"), ChatMessage("Describe a {animal}.")])
    assert isinstance(model.structured_predict(Animal, chat_prompt, animal="llama"), Animal)


def test_random_weights_too_can_only_write_what_matches(tiny: Path) -> None:
    class Choice(BaseModel):
        number: int | None
        kind: bool

    model = exact(tiny, temperature=1.5, top_k=0, top_p=1.0, max_tokens=200)
    for seed in range(3):
        found = model.structured_predict(Choice, PromptTemplate("the tea"), {"seed": seed, "stop": ["no such text"]})
        assert isinstance(found, Choice)


def test_a_structured_llm() -> None:
    response = llm(max_tokens=60).as_structured_llm(Animal).chat([ChatMessage("Describe a llama.")])
    assert isinstance(response.raw, Animal)


def test_a_truncated_answer_raises_instead_of_being_guessed_at() -> None:
    prompt = PromptTemplate("Describe a llama.")
    with pytest.raises(HanpacaError, match="max_tokens"):
        llm(max_tokens=3).structured_predict(Animal, prompt)
    with pytest.raises(HanpacaError, match="max_tokens"):
        list(llm(max_tokens=3).stream_structured_predict(Animal, prompt))


def test_a_stop_text_in_a_structured_answer_is_named() -> None:
    with pytest.raises(HanpacaError, match="stop text"):
        llm(max_tokens=60, stop=["legs"]).structured_predict(Animal, PromptTemplate("Describe a llama."))


@pytest.mark.parametrize("way", ["output_cls", "structured llm"])
async def test_a_query_engine_does_not_swallow_a_truncated_answer(tiny: Path, way: str) -> None:
    model = exact(tiny, max_tokens=3)
    given = {"output_cls": Animal, "llm": model} if way == "output_cls" else {"llm": model.as_structured_llm(Animal)}
    synthesizer = get_response_synthesizer(**given)
    nodes = [NodeWithScore(node=TextNode(text="A llama has four legs."), score=1.0)]
    with pytest.raises(HanpacaError, match="max_tokens"):
        synthesizer.synthesize("legs?", nodes)
    with pytest.raises(HanpacaError, match="max_tokens"):
        await synthesizer.asynthesize("legs?", nodes)


def test_what_validators_refuse_raises() -> None:
    with pytest.raises(HanpacaError, match="Even refuses it"):
        llm(max_tokens=30).structured_predict(Even, PromptTemplate("Give a small number."))


def test_another_program_mode_is_llama_indexs_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llm(max_tokens=60, pydantic_program_mode=PydanticProgramMode.LLM)
    sent = wire(model.loaded().engine, monkeypatch)
    with pytest.raises(Exception, match=r"json|JSON|Could not|validation error"):
        model.structured_predict(Animal, PromptTemplate("Say hello."))
    assert sent[0].sampling.json_schema is None


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
