"""Answers that match a schema, by constrained decoding: the model cannot write anything else.

Knows no model: it binds a JSON schema to one and reads the answer. The schema itself is not put into the prompt; say
there what you want.
"""

from __future__ import annotations

import json
from functools import partial
from operator import itemgetter
from typing import Any, cast

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableAssign, RunnableLambda, RunnableParallel
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import is_typeddict

from ...core.errors import BadInput

METHODS = ("json_schema", "function_calling", "json_mode")


def structured(
    chat: BaseChatModel,
    schema: dict[str, Any] | type,
    *,
    include_raw: bool = False,
    method: str = "json_schema",
    strict: bool | None = None,
    **unknown: Any,
) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
    """`chat` with `schema` as a constraint, and a reader of its answer. Raises `BadInput` on other options."""
    if unknown:
        raise BadInput(f"{sorted(unknown)[0]!r} is not an option here.", "Valid: include_raw, method, strict.")
    if method not in METHODS:
        raise BadInput(f"{method!r} is not a method here.", f"Valid: {', '.join(METHODS)}.")
    wanted = json_schema_of(schema)
    shown = {"title": "Answer", **wanted} if _is_json_schema(schema) else convert_to_json_schema(schema)
    told = {"kwargs": {"method": method}, "schema": shown}
    bound = chat.bind(json_schema=wanted, ls_structured_output_format=told)
    read = RunnableLambda(partial(_read, schema=schema), name="read_answer")
    if not include_raw:
        return cast("Runnable[LanguageModelInput, dict[str, Any] | BaseModel]", bound | read)
    # Not RunnablePassthrough.assign: what it makes cannot be pickled.
    parsed = RunnableAssign(RunnableParallel(parsed=itemgetter("raw") | read, parsing_error=_nothing))
    failed = RunnableAssign(RunnableParallel(parsed=_nothing))
    return cast(
        "Runnable[LanguageModelInput, dict[str, Any] | BaseModel]",
        RunnableParallel(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error"),
    )


def json_schema_of(schema: dict[str, Any] | type) -> dict[str, Any]:
    """The JSON schema that an answer must match: what the class says of itself, or the dict.

    A dict that describes a function stands for its parameters. Raises `BadInput` for anything else, and for a schema
    that says nothing.
    """
    wanted = _said_by(schema)
    if not wanted:
        raise BadInput(f"{schema!r} as a schema allows everything.", "Give a JSON schema with a type and properties.")
    return wanted


def _said_by(schema: dict[str, Any] | type) -> dict[str, Any]:
    if _is_json_schema(schema):
        # A name says no more than a title does, and is no keyword of JSON Schema.
        return {key: value for key, value in cast("dict[str, Any]", schema).items() if key != "name"}
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        if issubclass(schema, BaseModel):
            return schema.model_json_schema()
        return cast("dict[str, Any]", cast(Any, schema).schema())  # Pydantic 1
    if not isinstance(schema, dict) and not is_typeddict(schema):
        raise BadInput(f"{schema!r} is not a schema here.", "Give a Pydantic class, a TypedDict or a JSON schema.")
    try:
        described = convert_to_json_schema(schema)
    except (ValueError, KeyError, TypeError) as error:  # what LangChain says of a function it cannot read
        raise BadInput(f"{schema!r} is not a schema: {error}.", "Give a JSON schema with a type.") from error
    return {key: value for key, value in described.items() if key not in ("title", "description")}


def _is_json_schema(schema: Any) -> bool:
    """Whether it is a dict, and no function as OpenAI, Anthropic or Bedrock describe one."""
    if not isinstance(schema, dict) or schema.get("type") == "function":
        return False
    described = {"parameters", "input_schema", "toolSpec"} & set(schema)
    only_named = isinstance(schema.get("name"), str) and not {"type", "properties"} & set(schema)
    return not described and not only_named


def schema_of_format(response_format: Any) -> dict[str, Any] | None:
    """The JSON schema of an OpenAI-style `response_format`, which agents send. Raises `BadInput` on another form."""
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "json_schema" and isinstance(response_format.get("json_schema"), dict):
        schema = response_format["json_schema"].get("schema")
        if isinstance(schema, dict):
            return schema
    if kind == "json_object":
        return {"type": "object"}
    if kind == "text":
        return None
    raise BadInput(f"{response_format!r} is not a response_format.", "Valid types: json_schema, json_object, text.")


def _is_cut(text: str) -> bool:
    """Whether it is no whole JSON text."""
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return True
    return False


def _nothing(_: object) -> None:
    return None


def _read(message: AIMessage, *, schema: dict[str, Any] | type) -> Any:
    text = message.text
    if message.response_metadata.get("finish_reason") == "length":
        raise OutputParserException("The answer was cut off by max_tokens. Allow more tokens.", llm_output=text)
    try:
        if isinstance(schema, type) and is_basemodel_subclass(schema):
            if issubclass(schema, BaseModel):
                return TypeAdapter(schema).validate_json(text)
            return cast(Any, schema).parse_obj(json.loads(text))  # Pydantic 1
        return json.loads(text)
    except (json.JSONDecodeError, ValidationError) as error:
        if _is_cut(text):
            raise OutputParserException(
                "The answer was cut off by a stop text. Leave it out of a structured answer.", llm_output=text
            ) from error
        raise OutputParserException(f"The answer does not match the schema: {error}", llm_output=text) from error
