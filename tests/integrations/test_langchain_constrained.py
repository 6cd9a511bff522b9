"""Structured output and tools of the LangChain model: random weights too can only write what matches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    ToolMessage,
)
from langchain_core.tools import tool
from loops import EXACT, wire

from hanpaca.core.errors import BadInput, UnsupportedFeature
from hanpaca.integrations.langchain import ChatHanpaca

Chat = Callable[..., ChatHanpaca]


@pytest.fixture
def chat(tiny: Path) -> Chat:
    usual = {"model": str(tiny), "temperature": 0, "max_tokens": 24, "load_options": EXACT}
    return lambda **options: ChatHanpaca(**{**usual, **options})


def test_random_weights_too_can_only_write_what_matches(chat: Chat) -> None:
    from typing_extensions import TypedDict

    class Choice(TypedDict):
        """A choice."""

        number: int | None
        kind: bool

    model = chat(temperature=1.5, top_k=0, top_p=1.0, max_tokens=200)
    for seed in range(3):
        runnable = model.with_structured_output(Choice)
        found = runnable.invoke("the tea", seed=seed)
        assert isinstance(found, dict)
        assert isinstance(found["kind"], bool)


def test_a_response_format_is_the_same_constraint(chat: Chat) -> None:
    schema = {"title": "Yes", "type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    response = {"type": "json_schema", "json_schema": {"name": "Yes", "schema": schema}}
    assert json.loads(chat().invoke("a", response_format=response).text)["yes"] in (True, False)
    assert chat().invoke("a", response_format=None).text == chat().invoke("a").text
    with pytest.raises(BadInput, match="json_schema, json_object, text"):
        chat().invoke("a", response_format="json")


@tool
def multiply(first: int, second: int) -> int:
    """Multiply two numbers."""
    return first * second


@tool
def greet(formal: bool) -> str:
    """Greet the user."""
    return "Good day." if formal else "Hi."


def test_tools_are_off_unless_asked_for(chat: Chat) -> None:
    with pytest.raises(UnsupportedFeature, match="tool_calling=True"):
        chat().bind_tools([greet])
    assert chat().bind_tools([]).invoke("a").text
    with pytest.raises(UnsupportedFeature, match="tool_calling=True"):
        chat().invoke([HumanMessage("a"), ToolMessage("4", tool_call_id="1")])
    with pytest.raises(BadInput, match="Valid: auto, any, required, none, greet"):
        chat(tool_calling=True).bind_tools([greet], tool_choice="greed")


@pytest.mark.parametrize("seed", range(3))
async def test_every_call_of_random_weights_too_is_valid(chat: Chat, seed: int) -> None:
    model = chat(tool_calling=True, temperature=1.5, top_k=0, top_p=1.0, max_tokens=300, seed=seed)
    forced = model.bind_tools([multiply, greet], tool_choice="greet")
    message = forced.invoke("the tea")
    assert message.response_metadata["finish_reason"] == "tool_calls"
    assert message.usage_metadata
    call = message.tool_calls[0]
    assert call["name"] == "greet"
    assert greet.invoke(call).content in ("Good day.", "Hi.")
    chunks = [chunk async for chunk in model.bind_tools([greet], tool_choice="any").astream("the tea")]
    whole: Any = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert isinstance(whole, AIMessageChunk)
    assert [call["name"] for call in whole.tool_calls] == ["greet"]


def test_a_conversation_with_tool_calls_is_one_prompt(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat(tool_calling=True, max_tokens=400)
    sent = wire(model.loaded().engine, monkeypatch)
    calling = AIMessage("", tool_calls=[{"name": "greet", "args": {"formal": True}, "id": "1"}])
    history = [HumanMessage("Greet me."), calling, ToolMessage("Good day.", tool_call_id="1", name="greet")]
    model.bind_tools([greet], tool_choice="any").invoke(history)
    prompt = b"".join(map(model.loaded().engine.token_bytes, sent[0].tokens)).decode()
    assert "Greet the user." in prompt
    assert '{"tool": "greet", "arguments": {"formal": true}}' in prompt
    assert "Result of greet: Good day." in prompt
