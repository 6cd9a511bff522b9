"""JSON schema → GBNF, by llama-cpp-python's converter behind an allow-list.

The converter ignores what it does not know, so every keyword is checked first and the rest is refused: an answer
that does not match the schema must never look as if it did.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..errors import BadInput, UnsupportedFeature

_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "$schema", "$id", "discriminator"}
_DEFINITIONS = {"$defs", "definitions"}
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": set(),
    "number": set(),
    "boolean": set(),
    "null": set(),
}
_FORMATS = {"date", "time", "date-time", "uuid"}
_LONGEST = 1000
"""Largest minLength, maxLength, minItems or maxItems: each is written out in the grammar."""


def gbnf_of_schema(schema: Mapping[str, Any]) -> str:
    """The GBNF grammar of a JSON schema, as text.

    Raises `UnsupportedFeature` for a keyword that the grammar would not enforce, naming it and its place.
    """
    whole = dict(schema)
    _check(whole, "", whole)
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        grammar = json_schema_to_gbnf(json.dumps(_inline_single_all_of(whole)))
    except (AssertionError, KeyError, ValueError, TypeError, IndexError) as error:
        raise BadInput(
            f"The JSON schema cannot be turned into a grammar: {error!r}.", "Simplify the schema."
        ) from error
    return _mend(grammar)


def check_size(grammar: str) -> None:
    """Refuse grammars that llama.cpp's recursive parser would run out of stack on, or silently take for none."""
    depth = deepest = 0
    for character in grammar:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    rules = grammar.count("::=")
    if not grammar.strip() or "\0" in grammar:
        raise BadInput("The grammar is empty or holds a NUL character.", "Leave it out for an unconstrained answer.")
    if len(grammar) > 256 * 1024 or deepest > 100 or rules > 5000:
        raise BadInput(
            f"The grammar is too large: {len(grammar):,} characters, {rules:,} rules, {deepest} levels of parentheses.",
            "At most 262,144 characters, 5,000 rules and 100 levels.",
        )


def _check(schema: Any, at: str, whole: Mapping[str, Any]) -> None:
    if not isinstance(schema, Mapping):
        raise BadInput(f"The JSON schema has {schema!r} at {at or 'its root'} where a schema is expected.")
    keys = set(schema) - _ANNOTATIONS
    for name in _DEFINITIONS & keys:
        for key, sub in schema[name].items():
            _check(sub, f"{at}/{name}/{key}", whole)
    keys -= _DEFINITIONS
    for form in ("$ref", "anyOf", "oneOf", "allOf", "const", "enum"):
        if form in keys:
            _check_form(schema, form, keys, at, whole)
            return
    kind = schema.get("type")
    if isinstance(kind, list):
        _refuse(keys - {"type"}, at, "beside a list of types")
        return
    if kind is None:
        kind = next((k for k in ("object", "array", "string") if keys & _KEYWORDS[k]), None)
        if kind is None and keys:
            _refuse(keys, at, "without a type")
        if kind is None:
            return
    if kind not in _KEYWORDS:
        raise BadInput(f"The JSON schema's type {kind!r} at {at or 'its root'} does not exist.")
    _refuse(keys - {"type"} - _KEYWORDS[kind], at, f"of type {kind}")
    {"object": _check_object, "array": _check_array, "string": _check_string}.get(kind, _check_nothing)(
        schema, at, whole
    )


def _check_form(schema: Mapping[str, Any], form: str, keys: set[str], at: str, whole: Mapping[str, Any]) -> None:
    """$ref, unions and constants: the converter looks at nothing beside them."""
    _refuse(keys - {form} - ({"type"} if form in ("const", "enum") else set()), at, f"beside {form}")
    if form == "$ref":
        if not str(schema[form]).startswith("#/"):
            _refuse({"$ref to another document"}, at, "")
    elif form == "enum" and not schema[form]:
        raise BadInput(f"The JSON schema's enum at {at or 'its root'} is empty.")
    elif form in ("anyOf", "oneOf", "allOf"):
        if form == "allOf" and len(schema[form]) != 1:
            _refuse({"allOf of several schemas"}, at, "")
        if form == "oneOf" and "discriminator" not in schema:
            _refuse({"oneOf without a discriminator"}, at, "(anyOf can be enforced)")
        for index, sub in enumerate(schema[form]):
            _check(sub, f"{at}/{form}/{index}", whole)


def _check_object(schema: Mapping[str, Any], at: str, whole: Mapping[str, Any]) -> None:
    properties = schema.get("properties", {})
    missing = [name for name in schema.get("required", []) if name not in properties]
    if missing:
        _refuse({f"required {missing[0]!r} without a property of that name"}, at, "")
    for name, sub in properties.items():
        _check(sub, f"{at}/properties/{name}", whole)
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        _check(extra, f"{at}/additionalProperties", whole)


def _check_array(schema: Mapping[str, Any], at: str, whole: Mapping[str, Any]) -> None:
    _check_lengths(schema, at, "minItems", "maxItems")
    if "prefixItems" in schema:
        count = len(schema["prefixItems"])
        if schema.get("items") or not schema.get("minItems", count) == schema.get("maxItems", count) == count:
            _refuse({"prefixItems with further items"}, at, "")
        for index, sub in enumerate(schema["prefixItems"]):
            _check(sub, f"{at}/prefixItems/{index}", whole)
    elif "items" in schema:
        _check(schema["items"], f"{at}/items", whole)
    else:
        _refuse({"minItems", "maxItems"} & set(schema), at, "without items")


def _check_string(schema: Mapping[str, Any], at: str, whole: Mapping[str, Any]) -> None:
    _check_lengths(schema, at, "minLength", "maxLength")
    given = {"pattern", "format"} & set(schema)
    if len(given | ({"length"} if {"minLength", "maxLength"} & set(schema) else set())) > 1:
        _refuse(given, at, "together with another limit on the same string")
    if "format" in schema and schema["format"] not in _FORMATS:
        _refuse({f"format {schema['format']!r}"}, at, f"(known: {', '.join(sorted(_FORMATS))})")


def _check_nothing(schema: Mapping[str, Any], at: str, whole: Mapping[str, Any]) -> None:
    """Numbers, booleans and null have no further keywords."""


def _check_lengths(schema: Mapping[str, Any], at: str, *names: str) -> None:
    for name in names:
        value = schema.get(name, 0)
        if not isinstance(value, int) or not 0 <= value <= _LONGEST:
            _refuse({f"{name} {value!r}"}, at, f"(0 to {_LONGEST} can be enforced)")


def _refuse(keywords: set[str], at: str, why: str) -> None:
    if keywords:
        names = ", ".join(sorted(keywords))
        raise UnsupportedFeature(
            f"The JSON schema uses {names} {why}".rstrip() + f" at {at or 'its root'}, which cannot be enforced.",
            "Leave it out and check the answer yourself.",
        )


def _inline_single_all_of(schema: Any) -> Any:
    """`{"allOf": [X]}` says X."""
    if isinstance(schema, list):
        return [_inline_single_all_of(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "allOf" in schema and isinstance(schema["allOf"], list):
        return _inline_single_all_of(schema["allOf"][0])
    return {key: _inline_single_all_of(value) for key, value in schema.items()}


def _mend(grammar: str) -> str:
    """Two faults of the converter: constants spelled in ASCII escapes, and raw control characters in strings."""
    grammar = grammar.replace(r'[^"\\] | "\\"', r'[^"\\\x00-\x1F\x7F] | "\\"')
    surrogates = re.sub(r"\\\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), grammar)
    return surrogates.encode("utf-16", "surrogatepass").decode("utf-16")
