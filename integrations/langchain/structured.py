"""Answers that match a schema, by constrained decoding: the model cannot write anything else.

Knows no model: it binds a JSON schema to one and reads the answer. The schema itself is not put into the prompt; say
there what you want.
"""

from __future__ import annotations

import json
from operator import itemgetter
from typing import Any, cast

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, TypeAdapter, ValidationError

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
    wanted = convert_to_json_schema(schema)
    told = {"kwargs": {"method": method}, "schema": wanted}
    bound = chat.bind(json_schema=json_schema_of(schema), ls_structured_output_format=told)
    read = RunnableLambda(lambda message: _read(cast(AIMessage, message), schema))
    if not include_raw:
        return cast("Runnable[LanguageModelInput, dict[str, Any] | BaseModel]", bound | read)
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | read, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return cast(
        "Runnable[LanguageModelInput, dict[str, Any] | BaseModel]",
        RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error"),
    )


def json_schema_of(schema: dict[str, Any] | type) -> dict[str, Any]:
    """The JSON schema that an answer must match: what the class says of itself, or the dict without its name."""
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        if issubclass(schema, BaseModel):
            return schema.model_json_schema()
        return cast("dict[str, Any]", cast(Any, schema).schema())  # Pydantic 1
    described = convert_to_json_schema(schema)
    return {key: value for key, value in described.items() if key not in ("title", "description")}


def _read(message: AIMessage, schema: dict[str, Any] | type) -> Any:
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
        raise OutputParserException(f"The answer does not match the schema: {error}", llm_output=text) from error
