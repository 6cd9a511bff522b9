"""JSON schema (2020-12) as llguidance enforces it, with what it would let through mended or refused. Knows no model.

llguidance refuses by name what it cannot enforce. Left for here: dates that exist, whole numbers of endless length, and
what it takes for something else. What would take it too long, or has no end, is found in `json_limits.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..errors import BadInput, UnsupportedFeature
from .json_limits import check_effort, check_end, mappings
from .json_one_of import apart

LARGEST = 512 * 1024
"""Characters."""
_MOST = 10**15 - 1
"""Largest whole number where nothing bounds it: a double holds so many digits exactly."""
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
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_IDLE = {"uniqueItems": False, "unevaluatedProperties": True, "propertyNames": {"type": "string"}, "not": False}
"""Keywords that say nothing with these values."""


def lark_of_schema(schema: Mapping[str, Any]) -> str:
    """A grammar in Lark whose texts are the schema's values.

    Raises `UnsupportedFeature` for what cannot be enforced and `BadInput` for what is no schema.
    """
    try:
        size = len(json.dumps(schema, allow_nan=False))
        if size > LARGEST:
            raise BadInput(f"The JSON schema has {size:,} characters; {LARGEST:,} are possible.", "Split the question.")
        check_end(schema)
        check_effort(schema)
        closed = not any(_joins_objects(one) for one in mappings(schema))
        mended = _mended(schema, closed, schema)
        return f"start: %json {json.dumps({**mended, 'x-guidance': _LAYOUT | _escapes(mended)})}"
    except RecursionError as error:
        raise BadInput("The JSON schema has too many levels.", "Use $ref to repeat a part of it.") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"The JSON schema is no JSON: {error}.") from error


def _escapes(schema: Mapping[str, Any]) -> dict[str, str]:
    """Where an object may have more names than its schema's, none is spelled in digits: `\\u0061` is an a too."""
    opened = (one for one in mappings(schema) if one.get("additionalProperties", True) is not False)
    named = any(one.get("properties") or one.get("patternProperties") for one in opened)
    return {"json_allowed_escapes": 'nrbtf\\"'} if named else {}


def _joins_objects(schema: Mapping[str, Any]) -> bool:
    """Whether an object's properties may come from several schemas."""
    several = schema.get("allOf")
    own = {"properties", "required", "additionalProperties"} & set(schema)
    others = {"$ref", "anyOf", "oneOf", "allOf"} & set(schema)
    return bool(own and others) or (isinstance(several, list | tuple) and len(several) > 1)


def _mended(schema: Any, closed: bool, whole: Mapping[str, Any]) -> Any:
    """The schema with formats as patterns and bounds on whole numbers. `closed`: objects that name properties, and do
    not say whether there may be others, hold no others."""
    if not isinstance(schema, Mapping):
        return schema
    found = {name: inner for name, inner in schema.items() if name not in _IDLE or inner != _IDLE[name]}
    for name, inner in found.items():
        if name in _SCHEMAS:
            found[name] = _mended(inner, closed, whole)
        elif name in _LISTS and isinstance(inner, list | tuple):
            found[name] = [_mended(one, closed, whole) for one in inner]
        elif name in _NAMED and isinstance(inner, Mapping):
            found[name] = {key: _mended(one, closed, whole) for key, one in inner.items()}
    if "oneOf" in found and "anyOf" not in found and apart(found["oneOf"], whole):
        found["anyOf"] = found.pop("oneOf")
    _mend_texts(found)
    _mend_numbers(found)
    if closed and "additionalProperties" not in found and isinstance(found.get("properties"), Mapping):
        names = [name for name in found.get("required") or () if isinstance(name, str)]
        found["properties"] = {**found["properties"], **{n: True for n in names if n not in found["properties"]}}
        found["additionalProperties"] = False
    return found


def _mend_texts(schema: dict[str, Any]) -> None:
    if isinstance(schema.get("format"), str) and schema["format"] in _FORMATS and "pattern" not in schema:
        schema["pattern"] = f"^{_FORMATS[schema.pop('format')]}$"
    elif isinstance(schema.get("pattern"), str):
        schema["pattern"] = _without_quotes(schema["pattern"])
    if isinstance(named := schema.get("patternProperties"), Mapping):
        schema["patternProperties"] = {_without_quotes(pattern): inner for pattern, inner in named.items()}


def _without_quotes(pattern: str) -> str:
    """llguidance takes a class that holds every control character for one with quotes and backslashes, whatever it
    says: in `[^"]` one of them is left out."""
    if re.search(r"(?<!\\)(?:\\\\)*\\P", pattern):
        raise UnsupportedFeature(f"The JSON schema cannot be enforced: \\P in the pattern {pattern!r}.", "Use [^…].")
    return re.sub(r"(?<!\\)((?:\\\\)*)\[\^", r"\1[^\\x01", pattern)


def _mend_numbers(schema: dict[str, Any]) -> None:
    """Bound whole numbers that nothing bounds, which a model may write without end."""
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list | tuple) else [kinds]
    if "integer" not in kinds or "number" in kinds or {"const", "enum"} & set(schema):
        return
    if any(isinstance(schema.get(name), int | float) and abs(schema[name]) > _MOST for name in _BOUNDS):
        return
    if not {"minimum", "exclusiveMinimum"} & set(schema):
        schema["minimum"] = -_MOST
    if not {"maximum", "exclusiveMaximum"} & set(schema):
        schema["maximum"] = _MOST
