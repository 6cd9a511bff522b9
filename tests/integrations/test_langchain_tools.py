"""Tools of agents: schemas with parts of their own, conversations with calls in every form, settings of bind_tools."""

import functools
import json
import operator
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, FunctionMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.errors import GraphRecursionError
from loops import EXACT, text_of, wire
from pydantic import BaseModel

from hanpaca import Completion, Usage
from hanpaca.core import model as core_model
from hanpaca.core.errors import BadInput, UnsupportedFeature
from hanpaca.integrations.langchain import ChatHanpaca
from hanpaca.integrations.langchain.tools import Tools, read_answer

Chat = Callable[..., ChatHanpaca]


class Item(BaseModel):
    """A thing of an order."""

    big: bool


class Order(BaseModel):
    """An order."""

    items: tuple[Item, Item]
    first: Item


class Node(BaseModel):
    """A tree."""

    leaf: bool
    children: list["Node"]


@tool
def multiply(first: bool, second: bool) -> bool:
    """Multiply two bits."""
    return first and second


@pytest.fixture
def chat(tiny: Path) -> Chat:
    usual = {"model": str(tiny), "temperature": 0, "max_tokens": 300, "load_options": EXACT, "tool_calling": True}
    return lambda **options: ChatHanpaca(**{**usual, **options})


def described(name: str, model: type[BaseModel]) -> dict[str, Any]:
    """A tool in OpenAI's form, its schema with `$defs`."""
    return {"type": "function", "function": {"name": name, "parameters": model.model_json_schema()}}


def sum_of(chunks: Iterable[Any]) -> Any:
    """A streamed message as a whole one."""
    return functools.reduce(operator.add, chunks)


# -- schemas --------------------------------------------------------------------------------------------------------


def test_a_tool_whose_schema_has_parts_of_its_own(chat: Chat) -> None:
    alone = [described("order", Order)]
    among: list[Any] = [multiply, described("item", Item), *alone]
    for tools, choice in ((alone, "any"), (among, "order")):
        call = chat().bind_tools(tools, tool_choice=choice).invoke("a").tool_calls[0]
        assert Order.model_validate(call["args"])
    assert chat().bind_tools(among, tool_choice="any").invoke("a").tool_calls


def test_parts_of_the_same_name_stay_apart() -> None:
    one = {"$defs": {"X": {"type": "boolean"}}, "type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}}
    two = {"definitions": {"X": {"type": "null"}}, "type": "object", "properties": {"x": {"$ref": "#/definitions/X"}}}
    tools = [{"name": "one", "parameters": one}, {"name": "two", "parameters": two}]
    schema = Tools.of(tools, allowed=True).schema(Node.model_json_schema())
    assert [form["properties"] for form in schema["anyOf"]] == [
        {"tool": {"const": "one"}, "arguments": {"$ref": "#/$defs/arguments0"}},
        {"tool": {"const": "two"}, "arguments": {"$ref": "#/$defs/arguments1"}},
        {"answer": {"$ref": "#/$defs/answer"}},
    ]
    parts = schema["$defs"]
    assert parts["arguments0"]["properties"]["x"] == {"$ref": "#/$defs/arguments0/$defs/X"}
    assert parts["arguments1"]["properties"]["x"] == {"$ref": "#/$defs/arguments1/definitions/X"}
    assert parts["answer"]["$ref"] == "#/$defs/answer/$defs/Node"  # recursive: never spelled out
    assert one["properties"] == {"x": {"$ref": "#/$defs/X"}}  # what was given stays as it was


def test_an_agent_with_tools_and_a_nested_answer(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat()
    sent = wire(model.loaded().engine, monkeypatch)
    agent = create_agent(model, tools=[multiply], response_format=Order)
    asked: Any = {"messages": [HumanMessage("Order two things.")]}
    with suppress(GraphRecursionError, OutputParserException):  # random weights may call and call, or find no end
        assert isinstance(agent.invoke(asked, {"recursion_limit": 4})["structured_response"], Order)
    assert "Item" in sent[0].sampling.json_schema["$defs"]["answer"]["$defs"]


def test_a_schema_of_the_constructor_is_the_answers(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat(json_schema=Item.model_json_schema())
    sent = wire(model.loaded().engine, monkeypatch)
    model.invoke("a", tools=[multiply])
    assert sent[0].sampling.json_schema["$defs"]["answer"]["properties"] == {"big": {"title": "Big", "type": "boolean"}}


# -- conversations --------------------------------------------------------------------------------------------------


def test_the_model_reads_its_own_call_in_every_output_version(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = []
    for version in ("v0", "v1"):
        model = chat(output_version=version).bind_tools([multiply], tool_choice="multiply")
        called = model.invoke("a")
        result = ToolMessage("4", tool_call_id=called.tool_calls[0]["id"] or "", name="multiply")
        sent = wire(model.bound.loaded().engine, monkeypatch)  # type: ignore[attr-defined]
        model.invoke([HumanMessage("a"), called, result])
        prompts.append(text_of(model.bound.loaded().engine, sent[0]))  # type: ignore[attr-defined]
        whole = sum_of(model.stream("a"))
        model.invoke([HumanMessage("a"), whole, result])
        assert list(sent[-1].tokens) == list(sent[0].tokens)
    assert prompts[0] == prompts[1]
    assert "Result of multiply: 4" in prompts[0]


def test_calls_of_other_providers_are_read(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Any = [{"name": "multiply", "args": {"first": True}, "id": "1"}]
    blocks: Any = [{"type": "text", "text": "Well."}, {"type": "tool_use", "id": "1", "name": "multiply", "input": {}}]
    model = chat(max_tokens=1)
    sent = wire(model.loaded().engine, monkeypatch)
    model.invoke(
        [HumanMessage("a"), AIMessage(blocks, tool_calls=calls), FunctionMessage(content="4", name="multiply")]
    )
    model.invoke(
        [HumanMessage("a"), AIMessage("Well.", tool_calls=calls), ToolMessage("4", tool_call_id="1", name="multiply")]
    )
    assert list(sent[0].tokens) == list(sent[1].tokens)
    with pytest.raises(BadInput, match="tool_use block and no tool_calls"):
        model.invoke([HumanMessage("a"), AIMessage(blocks)])


def test_a_call_that_could_not_be_read_is_named(chat: Chat) -> None:
    broken: Any = {"type": "invalid_tool_call", "name": "multiply", "args": "{", "id": "1", "error": "no JSON"}
    with pytest.raises(BadInput, match=r"could not be read: 'multiply'.*Leave that message out"):
        chat().invoke([HumanMessage("a"), AIMessage("", invalid_tool_calls=[broken]), HumanMessage("b")])


# -- what is cut off ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{"answer": "A llama', "A llama"),
        ('{"answer":"', ""),
        (r'{"answer": "one\n\u4e00 \"two\" \u4e', 'one\n\u4e00 "two" '),
        ('{"answer": "half\\', "half"),
        ('{"answer": "all" }', "all"),
    ],
)
def test_a_text_that_was_cut_off_is_given_as_far_as_it_came(written: str, said: str) -> None:
    for reason in ("length", "stop"):
        message = read_answer(Completion(written, reason, Usage()), {"finish_reason": reason})
        assert message.content == said and message.response_metadata["finish_reason"] == reason


@pytest.mark.parametrize("written", ["", "{", '{"ans', '{"tool": "multiply", "arguments": {"fir', '{"answer": {"a": 1'])
def test_a_call_or_a_form_that_was_cut_off_is_none(written: str) -> None:
    for reason in ("length", "stop"):
        with pytest.raises(OutputParserException, match="cut off"):
            read_answer(Completion(written, reason, Usage()), {})


def test_a_stream_says_so_too(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = Completion('{"answer": "A lla', "length", Usage())
    monkeypatch.setattr(core_model.Model, "chat", lambda *given, **options: cut)
    whole = sum_of(chat().bind_tools([multiply]).stream("a"))
    assert whole.content == "A lla" and whole.response_metadata["finish_reason"] == "length"


# -- settings -------------------------------------------------------------------------------------------------------


def test_bind_tools_takes_what_agents_send(chat: Chat) -> None:
    forced = chat().bind_tools([multiply], tool_choice=True, strict=True, parallel_tool_calls=False)
    assert forced.invoke("a").tool_calls
    free = chat(max_tokens=500).bind_tools([multiply], tool_choice=False)
    assert free.kwargs["tool_choice"] == "auto"  # type: ignore[attr-defined]
    assert chat().invoke("a", tools=[multiply], tool_choice="any", strict=True, parallel_tool_calls=False).tool_calls


def test_bind_tools_refuses_the_rest_at_once(chat: Chat) -> None:
    with pytest.raises(UnsupportedFeature, match=r"one tool call.*Leave it out"):
        chat().bind_tools([multiply], parallel_tool_calls=True)
    with pytest.raises(BadInput, match="Did you mean max_tokens"):
        chat().bind_tools([multiply], max_token=3)
    with pytest.raises(BadInput, match=r"response_format.*strict.*tool_choice, tools"):
        chat().invoke("a", tool=[multiply])


def test_a_grammar_beside_a_schema_is_named(chat: Chat) -> None:
    model = chat(grammar='root ::= "a"')
    for runnable in (model.bind_tools([multiply]), model.with_structured_output(Item)):
        with pytest.raises(BadInput, match="without grammar"):
            runnable.invoke("a")
    assert json.loads(chat().with_structured_output(Item, include_raw=True).invoke("a")["raw"].text)  # type: ignore[index]
