"""Tool calls by constrained decoding: every call names a tool that exists, with arguments that match its schema.

What it cannot do is make a small model choose well; that is why `ChatHanpaca` has it off unless asked for. Knows no
model.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.messages.tool import tool_call
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool

from ...core import Completion, Message
from ...core.adapting import refuse_unknown
from ...core.errors import BadInput, UnsupportedFeature

CHOICES = ("auto", "any", "required", "none")
OPTIONS = ("tools", "tool_choice", "strict", "parallel_tool_calls")
"""What a call may say of tools. `strict` changes nothing: every call matches its tool's schema."""


def bound(
    chat: BaseChatModel, given: dict[str, Any], *, allowed: bool, valid: Sequence[str]
) -> Runnable[LanguageModelInput, AIMessage]:
    """`chat` with the tools and the other settings that `given` names; see `ChatHanpaca.bind_tools`."""
    refuse_unknown("bind_tools", given, valid)
    told = Tools.taken_from(given, allowed=allowed)
    if told is None:
        return chat.bind(**given)
    return chat.bind(tools=list(told.functions), tool_choice=told.choice, **given)


@dataclass(frozen=True)
class Tools:
    """The tools of one call, as OpenAI describes functions, and which of them may or must be called."""

    functions: Sequence[dict[str, Any]]
    choice: str

    @classmethod
    def of(cls, tools: Sequence[Any], choice: Any = None, *, allowed: bool) -> Tools:
        """Tools of any form that LangChain reads. Raises `UnsupportedFeature` unless `allowed`, and `BadInput`."""
        if not allowed:
            raise UnsupportedFeature(
                "Tool calls are off: every call would be valid, but a small model's choice among tools cannot be "
                "promised.",
                "Build the model with tool_calling=True if that will do, or use with_structured_output.",
            )
        try:
            functions = [convert_to_openai_tool(tool)["function"] for tool in tools]
        except (ValueError, KeyError, TypeError) as error:  # what LangChain says of a tool it cannot read
            raise BadInput(f"A tool cannot be read: {error}.", "Give a function, a tool, or OpenAI's form.") from error
        names = [function["name"] for function in functions]
        if isinstance(choice, dict):  # OpenAI's form
            choice = (choice.get("function") or choice).get("name", choice)
        elif isinstance(choice, bool):
            choice = "any" if choice else None
        if choice not in (None, *CHOICES, *names):
            raise BadInput(f"{choice!r} is not a tool_choice.", f"Valid: {', '.join([*CHOICES, *names])}.")
        return cls(functions, choice or "auto")

    @classmethod
    def taken_from(cls, given: dict[str, Any], *, allowed: bool) -> Tools | None:
        """The tools among a call's settings, which they leave; None where there are none to call."""
        tools, choice, _, parallel = (given.pop(name, None) for name in OPTIONS)
        if parallel:
            raise UnsupportedFeature(
                "One answer holds one tool call: parallel_tool_calls cannot be true.",
                "Leave it out; an agent asks again after each call.",
            )
        return cls.of(tools, choice, allowed=allowed) if tools and choice != "none" else None

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that may be called."""
        chosen = [function for function in self.functions if function["name"] == self.choice]
        return chosen or list(self.functions)

    def schema(self, answer: Any = None) -> dict[str, Any]:
        """What the model may write: a call, or (unless a call is forced) an answer that matches the schema `answer`."""
        parts = {f"arguments{at}": function.get("parameters") or _object() for at, function in enumerate(self.offered)}
        forms = [
            _object(tool={"const": function["name"]}, arguments={"$ref": f"#/$defs/{part}"})
            for function, part in zip(self.offered, parts, strict=True)
        ]
        if self.choice == "auto":
            parts["answer"] = answer or {"type": "string"}
            forms.append(_object(answer={"$ref": "#/$defs/answer"}))
        whole = {"anyOf": forms} if len(forms) > 1 else forms[0]
        return {**whole, "$defs": {name: _moved(part, f"#/$defs/{name}") for name, part in parts.items()}}

    def message(self) -> Message:
        """What the model is told of them."""
        shown = [json.dumps(function, ensure_ascii=False) for function in self.offered]
        forms = '{"tool": NAME, "arguments": {…}} to call one'
        if self.choice == "auto":
            forms += ', or {"answer": …} to answer'
        return Message("system", "\n".join(["You have these tools:", *shown, f"Write {forms}."]))


def read_answer(completion: Completion, metadata: dict[str, Any]) -> AIMessage:
    """The message that a constrained answer stands for; of a text that was cut off, what there is.

    Raises `OutputParserException` for a call that was cut off: in LangChain's chunks it would become a call with the
    arguments that it has so far, and run. So it does for an answer in a form.
    """
    begun = _BEGUN.match(completion.text)
    if begun:
        return AIMessage(content=json.loads(begun[1] + '"'), response_metadata=metadata)
    if completion.finish_reason == "length":
        raise OutputParserException(
            "The tool call was cut off by max_tokens. Allow more tokens.", llm_output=completion.text
        )
    try:
        said = json.loads(completion.text)
    except json.JSONDecodeError as error:
        raise OutputParserException(
            "The tool call was cut off by a stop text. Leave it out where tools are called.", llm_output=completion.text
        ) from error
    if "answer" in said:
        return AIMessage(content=json.dumps(said["answer"], ensure_ascii=False), response_metadata=metadata)
    call = tool_call(name=said["tool"], args=said["arguments"], id=f"call_{uuid.uuid4().hex}")
    return AIMessage(content="", tool_calls=[call], response_metadata={**metadata, "finish_reason": "tool_calls"})


_BEGUN = re.compile(r'\s*\{\s*"answer"\s*:\s*("(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*)')
"""An answer that is a text, as far as it was written; without half an escape."""


def _moved(schema: Any, to: str) -> Any:
    """`schema` as a part of another one, at the place `to`: its references to itself point there."""
    if isinstance(schema, list | tuple):
        return [_moved(part, to) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(part, to) for key, part in schema.items()}
    pointer = schema.get("$ref")
    if isinstance(pointer, str) and pointer.startswith("#"):
        moved["$ref"] = to + pointer.removeprefix("#")
    return moved


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
