"""JSON schema (2020-12) as llguidance enforces it, with what it would let through mended or refused. Knows no model.

llguidance refuses by name what it cannot enforce. Left for here: dates that exist, numbers of endless length, names
that could come twice, and schemas that no finite value matches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from ..errors import BadInput, UnsupportedFeature

LARGEST = 512 * 1024
"""Characters."""
MOST_DIGITS = 15
"""Digits of a whole number without bounds: what a double holds exactly."""
_LAYOUT = {"whitespace_pattern": r" |\n[ \t]{0,20}", "lenient": False, "coerce_one_of": False}
"""Between the parts of a value: nothing, a space, or a new line and its indent."""

_YEAR = "[1-9][0-9]{3}"
_LEAP = "([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)"
_31, _30 = "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])", "(0[469]|11)-(0[1-9]|[12][0-9]|30)"
_DATE = f"({_YEAR}-({_31}|{_30}|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:[0-5][0-9](\.[0-9]{{1,6}})?(Z|[+-]{_CLOCK})"
_FORMATS = {"date": _DATE, "time": _TIME, "date-time": f"{_DATE}T{_TIME}"}
"""Of RFC 3339, in a calendar with leap years (leap seconds are left out)."""

_SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def lark_of_schema(schema: Mapping[str, Any]) -> str:
    """A grammar in Lark whose texts are the schema's values.

    Raises `UnsupportedFeature` for what cannot be enforced and `BadInput` for what is no schema.
    """
    try:
        _check_end(schema)
        closed = not any(_combines(one) for one in _mappings(schema))
        text = json.dumps({**_mended(schema, closed), "x-guidance": _LAYOUT}, allow_nan=False)
    except RecursionError as error:
        raise BadInput("The JSON schema has too many levels.", "Use $ref to repeat a part of it.") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"The JSON schema is no JSON: {error}.") from error
    if len(text) > LARGEST:
        raise BadInput(
            f"The JSON schema has {len(text):,} characters; {LARGEST:,} are possible.", "Split the question."
        )
    return f"start: %json {text}"


def _combines(schema: Mapping[str, Any]) -> bool:
    """Whether an object's properties may come from several schemas."""
    several = schema.get("allOf")
    own = {"properties", "required", "additionalProperties"} & set(schema)
    others = {"$ref", "anyOf", "oneOf", "allOf"} & set(schema)
    return bool(own and others) or (isinstance(several, list | tuple) and len(several) > 1)


def _mended(schema: Any, closed: bool) -> Any:
    """The schema with formats as patterns and bounds on whole numbers. `closed`: objects that name properties, and do
    not say whether there may be others, hold no others."""
    if not isinstance(schema, Mapping):
        return schema
    found = dict(schema)
    for name, inner in schema.items():
        if name in _SCHEMAS:
            found[name] = _mended(inner, closed)
        elif name in _LISTS and isinstance(inner, list | tuple):
            found[name] = [_mended(one, closed) for one in inner]
        elif name in _NAMED and isinstance(inner, Mapping):
            found[name] = {key: _mended(one, closed) for key, one in inner.items()}
    if isinstance(found.get("format"), str) and found["format"] in _FORMATS and "pattern" not in found:
        found["pattern"] = f"^{_FORMATS[found.pop('format')]}$"
    if closed and "additionalProperties" not in found and isinstance(found.get("properties"), Mapping):
        names = [name for name in found.get("required") or () if isinstance(name, str)]
        found["properties"] = {**found["properties"], **{n: True for n in names if n not in found["properties"]}}
        found["additionalProperties"] = False
    least = found.get("minProperties", 0)
    if isinstance(least, int | float) and least > 1:
        raise UnsupportedFeature(
            "The JSON schema cannot be enforced: minProperties above 1, as a name could come twice.",
            "Name the properties and require them.",
        )
    if found.get("type") == "integer" and "multipleOf" not in found:
        largest = 10**MOST_DIGITS - 1
        if not {"minimum", "exclusiveMinimum"} & set(found):
            found["minimum"] = -largest
        if not {"maximum", "exclusiveMaximum"} & set(found):
            found["maximum"] = largest
    return found


def _check_end(whole: Mapping[str, Any]) -> None:
    """Refuse a schema that only values without end match."""
    waiting = ["#", *(one["$ref"] for one in _mappings(whole) if isinstance(one.get("$ref"), str))]
    ending: set[str] = set()
    while True:
        known = len(ending)
        for pointer in reversed(waiting):  # most often the last are those that the first refer to
            if pointer not in ending and _ends(_at(whole, pointer), ending):
                ending.add(pointer)
        if len(ending) == known:
            break
        waiting = [pointer for pointer in reversed(waiting) if pointer not in ending]
    if "#" not in ending:
        raise BadInput("The JSON schema refers to itself without end: no value matches it.", "Give it a way to end.")


def _mappings(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Everything in a schema that may be one."""
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            yield one
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one


def _at(whole: Any, pointer: str) -> Any:
    """What a pointer names; True where it is not found, which llguidance will say."""
    for part in unquote(pointer).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(whole, Mapping) and name in whole:
            whole = whole[name]
        elif isinstance(whole, list | tuple) and name.isdecimal() and int(name) < len(whole):
            whole = whole[int(name)]
        else:
            return True
    return whole


def _ends(schema: Any, ending: set[str]) -> bool:
    """Whether a finite value may match, if those that `ending` names do. What is no schema is not refused here."""
    if not isinstance(schema, Mapping):
        return True
    kinds = schema.get("type")
    if "$ref" in schema and isinstance(schema["$ref"], str) and schema["$ref"] not in ending:
        return False
    for form, enough in (("anyOf", any), ("oneOf", any), ("allOf", all)):
        options = schema.get(form)
        if isinstance(options, list | tuple) and options and not enough(_ends(one, ending) for one in options):
            return False
    if kinds == "object" or (kinds is None and "properties" in schema):
        return all(_ends(one, ending) for one in _required(schema))
    if kinds == "array" and isinstance(schema.get("minItems"), int) and schema["minItems"] > 0:
        first = schema.get("prefixItems")
        heads = list(first[: schema["minItems"]]) if isinstance(first, list | tuple) else []
        rest = [schema.get("items", True)] if len(heads) < schema["minItems"] else []
        return all(_ends(one, ending) for one in heads + rest)
    return True


def _required(schema: Mapping[str, Any]) -> list[Any]:
    """The schemas of the properties that an object must have."""
    named, names = schema.get("properties"), schema.get("required")
    extra = schema.get("additionalProperties", True)
    if not isinstance(names, list | tuple) or not isinstance(named, Mapping | None):
        return []
    return [(named or {}).get(name, extra) for name in names if isinstance(name, str)]
