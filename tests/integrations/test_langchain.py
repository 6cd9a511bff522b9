"""What LangChain's own suites do not ask of a chat model, a text model, a retriever and a chain."""

import asyncio
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from loops import ENDLESS, ticking
from pydantic import BaseModel

from hanpaca import Sampling, load
from hanpaca.core.errors import BadInput, ModelNotFound, UnsupportedFeature
from hanpaca.integrations.langchain import (
    ChatHanpaca,
    HanpacaEmbeddings,
    HanpacaLLM,
    HanpacaRetriever,
    question_answering,
)
from hanpaca.integrations.langchain.options import ModelOptions
from hanpaca.rag import Library

pytestmark = pytest.mark.usefixtures("smollm2")
ONE_THREAD = {"threads": 1}


def chat(**options: Any) -> ChatHanpaca:
    return ChatHanpaca(
        **{"model": "smollm2", "temperature": 0, "max_tokens": 24, "load_options": ONE_THREAD, **options}
    )


@pytest.fixture(scope="module")
def counting() -> Iterator[Any]:
    """The engine that the adapters' answers are compared with."""
    with load("smollm2", threads=1) as model:
        yield model


# -- options --------------------------------------------------------------------------------------------------------


def test_every_sampling_setting_is_an_option() -> None:
    assert set(Sampling.names()) <= set(ModelOptions.model_fields)


@pytest.mark.parametrize("cls", [ChatHanpaca, HanpacaLLM, HanpacaEmbeddings])
def test_an_unknown_option_is_refused_with_the_near_one(cls: type) -> None:
    with pytest.raises(BadInput, match="Did you mean model"):
        cls(modle="smollm2")


def test_a_setting_out_of_range_is_refused_when_the_object_is_built() -> None:
    with pytest.raises(BadInput, match="temperature"):
        chat(temperature=-1)


def test_an_unknown_setting_of_a_call_is_refused() -> None:
    with pytest.raises(BadInput, match="max_tokens"):
        chat().invoke("hello", max_token=3)


def test_an_unknown_model_surfaces_as_itself() -> None:
    with pytest.raises(ModelNotFound):
        chat(model="no-such-model").invoke("hello")
    with pytest.raises(ModelNotFound):
        asyncio.run(chat(model="no-such-model").ainvoke("hello"))


def test_building_ten_objects_loads_nothing() -> None:
    assert not any(object_._models for object_ in [chat(seed=number) for number in range(10)])


# -- chat -----------------------------------------------------------------------------------------------------------


def test_streamed_and_whole_answers_are_the_same_and_say_how_they_ended() -> None:
    model = chat()
    chunks = list(model.stream("Name three colours."))
    whole = model.invoke("Name three colours.")
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]
    assert chunks[-1].response_metadata["finish_reason"] == whole.response_metadata["finish_reason"]
    assert whole.usage_metadata
    assert chunks[-1].usage_metadata
    assert whole.usage_metadata["output_tokens"] == chunks[-1].usage_metadata["output_tokens"]


def test_stop_texts_of_constructor_and_call_both_stop() -> None:
    text = chat().invoke("Count: one, two, three, four, five.").text
    first, second = text.split()[1], text.split()[3]
    model = chat(stop=[second])
    assert model.invoke("Count: one, two, three, four, five.").text == text[: text.index(second)]
    stopped = model.invoke("Count: one, two, three, four, five.", stop=[first])
    assert stopped.text == text[: text.index(first)]
    assert stopped.response_metadata["finish_reason"] == "stop"


def test_a_stop_text_that_spans_tokens_never_shows_while_streaming() -> None:
    text = chat().invoke("Name three colours.").text
    middle = text[5:19]
    pieces = [chunk.text for chunk in chat().stream("Name three colours.", stop=[middle])]
    assert "".join(pieces) == text[:5]


def test_chinese_streams_in_whole_characters() -> None:
    pieces = [chunk.text for chunk in chat(max_tokens=40).stream("请重复：你好，世界。")]
    assert "�" not in "".join(pieces)


def test_double_turns_and_lists_of_blocks_are_one_conversation(counting: Any) -> None:
    messages = [
        SystemMessage("Be brief."),
        SystemMessage("Be kind."),
        HumanMessage([{"type": "text", "text": "Hello "}, "there"]),
        HumanMessage("Who are you?"),
    ]
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello there"},
        {"role": "user", "content": "Who are you?"},
    ]
    assert chat().get_num_tokens_from_messages(messages) == counting.count_tokens(plain)
    usage = chat().invoke(messages).usage_metadata
    assert usage
    assert usage["input_tokens"] == counting.count_tokens(plain)


def test_token_counts_are_the_engines(counting: Any) -> None:
    assert chat().get_num_tokens("羊驼是一种动物。") == counting.count_tokens("羊驼是一种动物。")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]), UnsupportedFeature),
        (ToolMessage("4", tool_call_id="1"), UnsupportedFeature),
        (ChatMessage(content="hello", role="narrator"), BadInput),
    ],
)
def test_what_it_cannot_read_is_refused(message: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        chat().invoke([message])


def test_log_probabilities() -> None:
    content = chat(max_tokens=3, logprobs=2).invoke("hello").response_metadata["logprobs"]["content"]
    assert len(content) >= 1
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in content)


def test_a_copy_in_another_process_loads_its_own() -> None:
    model = chat(seed=7)
    model.invoke("hello")
    copy = pickle.loads(pickle.dumps(model))
    assert not copy._models
    assert copy.model_dump() == model.model_dump()
    assert copy.invoke("hello").text == model.invoke("hello").text


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"temperature": 1.0}, {"system_prompt": "Be brief."}, {"context": 1024}, {"stop": ["x"]},
     {"grammar": 'root ::= "a"'}, {"load_options": {"threads": 1, "kv_type": "q8_0"}}],
)  # fmt: skip
def test_cache_keys_differ_when_anything_differs(changed: dict[str, Any]) -> None:
    assert chat()._get_llm_string() == chat()._get_llm_string()
    assert chat()._get_llm_string() != chat(**changed)._get_llm_string()


def test_a_cached_answer_asks_no_model() -> None:
    model = chat(cache=InMemoryCache())
    first = model.invoke("hello")
    model.loaded().close()
    assert model.invoke("hello").text == first.text


# -- asynchronous ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ChatHanpaca, HanpacaLLM])
async def test_the_loop_keeps_ticking_while_it_writes(kind: type[Any]) -> None:
    model = kind(model="smollm2", temperature=0, max_tokens=150, logit_bias=ENDLESS, load_options=ONE_THREAD)
    await model.ainvoke("hello", max_tokens=1)
    async with ticking() as ticks:
        await model.ainvoke("Write a long story about a llama.")
    assert ticks.steady
    async with ticking() as ticks:
        async for _ in model.astream("Write a long story about a llama."):
            pass
    assert ticks.steady


async def test_many_at_once_all_answer() -> None:
    questions: list[Any] = [f"Say the number {number}." for number in range(8)]
    answers = await chat(max_tokens=8).abatch(questions)
    assert len(answers) == 8
    assert all(answer.text for answer in answers)


# -- structured output ----------------------------------------------------------------------------------------------


class Animal(BaseModel):
    """An animal."""

    name: str
    legs: int


def test_structured_output_is_valid_by_construction() -> None:
    animal = chat(max_tokens=60).with_structured_output(Animal).invoke("Describe a llama.")
    assert isinstance(animal, Animal)


def test_a_truncated_answer_raises_instead_of_being_guessed_at() -> None:
    with pytest.raises(OutputParserException, match="max_tokens"):
        chat(max_tokens=3).with_structured_output(Animal).invoke("Describe a llama.")
    raw = chat(max_tokens=3).with_structured_output(Animal, include_raw=True).invoke("Describe a llama.")
    assert isinstance(raw, dict)
    assert raw["parsed"] is None
    assert isinstance(raw["parsing_error"], OutputParserException)


# -- the text model -------------------------------------------------------------------------------------------------


def llm(**options: Any) -> HanpacaLLM:
    usual = {"model": "smollm2", "temperature": 0, "max_tokens": 12, "load_options": ONE_THREAD}
    return HanpacaLLM(**{**usual, **options})


def test_a_chat_model_gets_the_prompt_as_one_user_turn(counting: Any) -> None:
    result = llm().generate(["Name a colour."])
    usage = (result.generations[0][0].generation_info or {})["usage"]
    assert usage["input_tokens"] == counting.count_tokens([{"role": "user", "content": "Name a colour."}])
    raw = llm(raw=True).generate(["Name a colour."])
    assert (raw.generations[0][0].generation_info or {})["usage"]["input_tokens"] < usage["input_tokens"]


def test_several_prompts_are_one_batch_and_a_stream_is_the_same_text() -> None:
    model = llm()
    texts = model.batch(["Name a colour.", "Name an animal."])
    assert len(set(texts)) == 2
    pieces = list(model.stream("Name a colour."))
    assert len(pieces) > 1
    assert "".join(pieces) == model.invoke("Name a colour.")


def test_a_prompt_that_is_a_template_already_is_warned_about() -> None:
    with pytest.warns(UserWarning, match="raw=True"):
        llm().invoke("[INST] Name a colour. [/INST]")


# -- retriever and chain --------------------------------------------------------------------------------------------

TEXT = "Llamas live in the Andes. A grown llama carries a load of thirty kilograms.\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("langchain")
    documents = folder / "documents"
    documents.mkdir()
    (documents / "llamas.txt").write_text(TEXT, encoding="utf-8")
    (documents / "量化.txt").write_text("量化用更少的位数保存模型权重。Q2_K 最省内存。\n", encoding="utf-8")
    with Library.open(folder / "library") as opened:
        opened.sync([documents])
    return folder / "library"


def test_documents_say_where_they_come_from(library: Path) -> None:
    found = HanpacaRetriever(library=library, k=1).invoke("What does a llama carry?")[0]
    assert found.metadata["file"].endswith("llamas.txt")
    assert found.metadata["line"] == 1
    assert TEXT[found.metadata["start"] : found.metadata["end"]] == found.page_content
    assert {"page", "score", "passage_id"} <= set(found.metadata)


def test_a_retriever_refuses_what_it_does_not_know(library: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Valid"):
        HanpacaRetriever(library=library, top=3)
    with pytest.raises(BadInput, match="Valid"):
        HanpacaRetriever(library=library).invoke("llama", top=3)
    with pytest.raises(BadInput, match="no library"):
        HanpacaRetriever(library=tmp_path).invoke("llama")


def test_a_retriever_in_another_process_opens_its_own(library: Path) -> None:
    retriever = HanpacaRetriever(library=library, k=1)
    retriever.invoke("llama")
    assert pickle.loads(pickle.dumps(retriever)).invoke("llama") == retriever.invoke("llama")


def test_an_lcel_chain_of_prompt_model_and_parser() -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "Say {word}.")])
    assert (prompt | chat() | StrOutputParser()).invoke({"word": "hello"})


class Calls(BaseCallbackHandler):
    """Counts what LangChain tells of the model's work."""

    def __init__(self) -> None:
        self.started = 0

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.started += 1


def test_question_answering_streams_the_answer_and_then_its_sources(library: Path) -> None:
    chain = question_answering(HanpacaRetriever(library=library), chat(max_tokens=30))
    calls = Calls()
    chunks = list(chain.stream("What load does a llama carry?", {"callbacks": [calls]}))
    assert len(chunks) > 3
    assert "sources" in chunks[-1]
    result: dict[str, Any] = {}
    for chunk in chunks:
        result = chunk if not result else result + chunk  # type: ignore[operator]
    assert "thirty" in result["answer"]
    assert result["sources"][0]["quote"] in TEXT
    assert result["mode"] == "stuff"
    assert calls.started == 1


def test_question_answering_whole_and_asynchronous(library: Path) -> None:
    chain = question_answering(HanpacaRetriever(library=library), chat(max_tokens=30))
    whole = chain.invoke("What load does a llama carry?")
    assert asyncio.run(chain.ainvoke("What load does a llama carry?"))["answer"] == whole["answer"]
    history = [HumanMessage("Tell me of llamas."), AIMessage("They live in the Andes.")]
    assert chain.invoke({"question": "What load does a llama carry?", "history": history})["answer"]
    with pytest.raises(BadInput, match="question, history"):
        chain.invoke({"query": "?"})


def test_question_answering_quotes_where_the_model_does_not_speak_the_language(library: Path) -> None:
    result = question_answering(HanpacaRetriever(library=library), chat()).invoke("哪种量化最省内存？")
    assert result["mode"] == "extract"
    assert "Q2_K" in result["answer"]
    assert "chinese-alpaca-2-7b" in result["notes"][0]
