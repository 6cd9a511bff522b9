"""Schemas, tools, blocks and settings in every form that LangChain and OpenAI give them; what is cut off."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from loops import EXACT, chatml_model, wire

from hanpaca.core.errors import BadInput, ModelNotFound, UnsupportedFeature
from hanpaca.integrations.langchain import ChatHanpaca, HanpacaLLM
from hanpaca.integrations.langchain.structured import json_schema_of

Chat = Callable[..., ChatHanpaca]
YES = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
OPENAI_TOOL = {
    "type": "function",
    "function": {"name": "greet", "description": "Greet the user.", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chatml_model(tmp_path_factory.mktemp("tiny") / "chatml.gguf")


@pytest.fixture
def chat(tiny: Path) -> Chat:
    usual = {"model": str(tiny), "temperature": 0, "max_tokens": 60, "load_options": EXACT}
    return lambda **options: ChatHanpaca(**{**usual, **options})


@tool
def greet(formal: bool) -> str:
    """Greet the user."""
    return "Good day." if formal else "Hi."


# -- schemas --------------------------------------------------------------------------------------------------------


def test_a_schema_needs_no_title(chat: Chat) -> None:
    response = {"type": "json_schema", "json_schema": {"name": "Yes", "schema": YES}}
    assert json.loads(chat().invoke("a", response_format=response).text)["yes"] in (True, False)
    assert chat().with_structured_output(YES).invoke("a")["yes"] in (True, False)  # type: ignore[index]
    of_choices = {"title": "Choice", "anyOf": [{"const": "left"}, {"const": "right"}]}
    assert chat().with_structured_output(of_choices).invoke("a") in ("left", "right")
    function = {"name": "Yes", "description": "Say it.", "parameters": YES}
    assert chat().with_structured_output(function).invoke("a")["yes"] in (True, False)  # type: ignore[index]


def test_a_name_in_a_schema_makes_no_function_of_it(chat: Chat) -> None:
    assert json_schema_of({"name": "Yes", **YES}) == YES
    assert chat().with_structured_output({"name": "Yes", **YES}).invoke("a")["yes"] in (True, False)  # type: ignore[index]
    properties = {"name": {"type": "string"}, "parameters": {"type": "object"}}
    assert json_schema_of({"type": "object", "properties": properties}) == {"type": "object", "properties": properties}


@pytest.mark.parametrize("schema", [None, list[int], 3, {}, {"name": "Yes"}, {"type": "function", "function": {}}])
def test_what_is_no_schema_is_refused(chat: Chat, schema: Any) -> None:
    with pytest.raises(BadInput, match="schema"):
        chat().with_structured_output(schema)


def test_a_response_format_without_a_schema_is_refused(chat: Chat) -> None:
    with pytest.raises(BadInput, match="json_schema, json_object, text"):
        chat().invoke("a", response_format={"type": "json_schema", "json_schema": {"name": "Yes"}})


def test_a_stop_text_in_a_structured_answer_is_named(chat: Chat) -> None:
    with pytest.raises(OutputParserException, match="stop text"):
        chat(stop=['"yes"']).with_structured_output(YES).invoke("a")


# -- tools ----------------------------------------------------------------------------------------------------------


def test_tools_of_a_call_are_off_too_unless_asked_for(chat: Chat) -> None:
    with pytest.raises(UnsupportedFeature, match="tool_calling=True"):
        chat().invoke("a", tools=[OPENAI_TOOL])
    with pytest.raises(UnsupportedFeature, match="tool_calling=True"):
        list(chat().stream("a", tools=[OPENAI_TOOL]))


def test_tools_of_a_call_come_in_any_form(chat: Chat) -> None:
    model = chat(tool_calling=True, max_tokens=200)
    for given in (OPENAI_TOOL, OPENAI_TOOL["function"], greet):
        said = model.invoke("a", tools=[given], tool_choice={"type": "function", "function": {"name": "greet"}})
        assert [call["name"] for call in said.tool_calls] == ["greet"]
    assert not model.invoke("a", tools=[OPENAI_TOOL], tool_choice="none").tool_calls
    for wrong in ("greed", {"type": "function"}):
        with pytest.raises(BadInput, match="Valid: auto, any, required, none, greet"):
            model.invoke("a", tools=[OPENAI_TOOL], tool_choice=wrong)
    with pytest.raises(BadInput, match="cannot be read"):
        model.invoke("a", tools=[{"type": "object"}])


def test_a_stop_text_in_a_tool_call_is_named(chat: Chat) -> None:
    with pytest.raises(OutputParserException, match="stop text"):
        chat(tool_calling=True).bind_tools([greet], tool_choice="any").invoke("a", stop=['"arguments"'])


def test_tokens_are_counted_with_the_tools(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat(tool_calling=True, max_tokens=200)
    sent = wire(model.loaded().engine, monkeypatch)
    history = [HumanMessage("a"), AIMessage("", tool_calls=[{"name": "greet", "args": {"formal": True}, "id": "1"}])]
    with suppress(OutputParserException):  # random weights may not come to an end
        model.invoke(history, tools=[greet])
    assert model.get_num_tokens_from_messages(history, tools=[greet]) == len(sent[0].tokens)
    assert model.get_num_tokens_from_messages(history) < len(sent[0].tokens)


# -- caches, log-probabilities, callbacks ---------------------------------------------------------------------------


def test_the_key_of_a_cached_answer_knows_the_calls_model(chat: Chat, tmp_path: Path) -> None:
    other = chatml_model(tmp_path / "other.gguf", seed=1)
    before = chat()._get_llm_string(model=str(other))
    other.touch()
    assert chat()._get_llm_string(model=str(other)) != before


def test_log_probabilities_of_the_text_model(tiny: Path) -> None:
    llm = HanpacaLLM(model=str(tiny), temperature=0, max_tokens=3, load_options=EXACT)
    info = llm.generate(["the tea"], logprobs=2).generations[0][0].generation_info
    assert info
    content = info["logprobs"]["content"]
    assert len(content) == info["usage"]["output_tokens"] == 3
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in content)
    chunks = list(llm._stream("the tea", logprobs=2))
    streamed = sum(chunks[1:], start=chunks[0]).generation_info
    assert streamed
    assert [entry["bytes"] for entry in streamed["logprobs"]["content"]] == [entry["bytes"] for entry in content]


def test_the_text_model_has_no_option_that_does_nothing(tiny: Path) -> None:
    wrong: dict[str, Any] = {"streaming": True}
    with pytest.raises(BadInput, match="streaming"):
        HanpacaLLM(model=str(tiny), **wrong)


class Heard(BaseCallbackHandler):
    """Starts and errors, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_chat_model_start(self, *given: Any, **more: Any) -> None:
        self.events.append("start")

    def on_llm_start(self, *given: Any, **more: Any) -> None:
        self.events.append("start")

    def on_llm_error(self, error: BaseException, **more: Any) -> None:
        self.events.append(type(error).__name__)


@pytest.mark.parametrize("kind", [ChatHanpaca, HanpacaLLM])
@pytest.mark.parametrize(
    ("options", "error"), [({"model": "no-such-model"}, ModelNotFound), ({"temperature": -1}, BadInput)]
)
async def test_callbacks_hear_of_calls_that_cannot_start(
    kind: type[Any], tiny: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    model = kind(model=str(tiny), load_options=EXACT)
    heard = Heard()
    with pytest.raises(error):
        model.invoke("a", {"callbacks": [heard]}, **options)
    with pytest.raises(error):
        await model.ainvoke("a", {"callbacks": [heard]}, **options)
    with pytest.raises(error):
        [chunk async for chunk in model.astream("a", {"callbacks": [heard]}, **options)]
    assert heard.events == ["start", error.__name__] * 3


# -- blocks ---------------------------------------------------------------------------------------------------------


def test_thoughts_are_left_out_and_plain_texts_read(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat(max_tokens=1)
    sent = wire(model.loaded().engine, monkeypatch)
    plain: list[Any] = [{"type": "text-plain", "text": "the tea", "mime_type": "text/plain"}]
    thought: list[Any] = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "yes"}]
    model.invoke([HumanMessage(plain), AIMessage(thought), HumanMessage("so")])
    model.invoke([HumanMessage("the tea"), AIMessage("yes"), HumanMessage("so")])
    assert list(sent[0].tokens) == list(sent[1].tokens)
    with pytest.raises(UnsupportedFeature, match="reasoning"):
        model.invoke([HumanMessage(thought)])
