"""What JSON schema keywords say of values: types, constants, bounds, references."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from ..errors import BadInput, UnsupportedFeature

ANNOTATIONS = frozenset((
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator", "$comment",
    "$schema", "$id", "$defs", "definitions",
))  # fmt: skip
"""Keywords that constrain nothing."""
KEYWORDS: Mapping[str, frozenset[str]] = {
    "object": frozenset(("properties", "required", "additionalProperties", "minProperties", "maxProperties")),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems")),
    "string": frozenset(("minLength", "maxLength", "format")),
    "integer": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "boolean": frozenset(),
    "null": frozenset(),
}
"""Types, and the keywords of each that are enforced."""
LONGEST = 1000
"""Largest length or number of items: each is written out in the grammar."""
DEEPEST = 100
"""Most levels of schemas within schemas."""


def json_types(schema: Mapping[str, Any]) -> set[str]:
    """Types that a value of the schema may have; all of them where nothing says."""
    constants = _constants_of(schema)
    given = schema.get("type")
    if constants is not None:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        found = {kind for kind in KEYWORDS for value in values if is_of(value, kind)}
    elif given is not None:
        found = {given} if isinstance(given, str) else set(given)
    else:
        found = set(KEYWORDS)
    return {"number" if kind == "integer" else kind for kind in found}


def constants_apart(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Whether both allow only constants, and none in common."""
    first, second = _constants_of(one), _constants_of(two)
    return first is not None and second is not None and not first & second


def _constants_of(schema: Mapping[str, Any]) -> set[str] | None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return {_canonical(value) for value in values} if isinstance(values, list) else None


def _canonical(value: Any) -> str:
    """JSON values are equal when these are: 1 and 1.0 are, 1 and true are not."""
    return json.dumps(_plain(value), sort_keys=True, default=repr)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def same(one: Any, two: Any) -> bool:
    """Whether two JSON values are equal."""
    return _canonical(one) == _canonical(two)


def is_of(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a type."""
    if kind in ("integer", "number"):
        whole = kind == "number" or not isinstance(value, float) or value.is_integer()
        return isinstance(value, int | float) and not isinstance(value, bool) and whole
    types = {"object": Mapping, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, types[kind])


def bounds(schema: Mapping[str, Any], least: str, most: str, at: str) -> tuple[int, int | None]:
    """Two limits of a length, checked."""
    for name in (least, most):
        value = schema.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LONGEST:
            refuse({f"{name} {value!r}"}, at, f"(0 to {LONGEST} can be enforced)")
    low, high = schema.get(least, 0), schema.get(most)
    if high is not None and low > high:
        raise BadInput(f"The JSON schema at {at or 'its root'} has {least} {low} over {most} {high}: nothing matches.")
    return low, high


def limits(schema: Mapping[str, Any], at: str) -> tuple[int | None, int | None, bool, bool]:
    """(low, high, low excluded, high excluded) of a number."""
    limits: list[tuple[int | None, bool]] = []
    for name, other, sign in (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1)):
        given = [(schema[key], key == other) for key in (name, other) if key in schema]
        for value, _ in given:
            if not is_of(value, "integer") or abs(value) >= 10**15:
                refuse({f"{name} or {other} {value!r}"}, at, "(whole numbers under 10 ** 15 can be enforced)")
        value, excluded = max(given, key=lambda pair: (sign * pair[0], pair[1]), default=(None, False))
        limits.append((None if value is None else int(value), excluded))
    (low, above), (high, below) = limits
    if low is not None and high is not None and low > high:
        nothing(at)
    return low, high, above, below


def times(least: int, most: int | None) -> str:
    """GBNF's repetition."""
    return f"{{{least},{'' if most is None else most}}}"


def listed(item: str, least: int, most: int | None) -> str:
    """`least` to `most` items with commas between."""
    more = f'{item} ("," ws {item}){times(max(0, least - 1), None if most is None else most - 1)}'
    return more if least else f"({more})?"


def look_up(whole: Any, pointer: str, at: str) -> Any:
    """What a JSON pointer (RFC 6901, as a URI fragment) points to."""
    found = whole
    for part in unquote(pointer[1:]).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and key in found:
            found = found[key]
        elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            raise BadInput(f"The JSON schema's $ref {pointer!r} at {at or 'its root'} points to nothing.")
    return found


def refuse(keywords: set[str] | frozenset[str], at: str, why: str) -> None:
    """Raise `UnsupportedFeature` for keywords, if there are any."""
    if keywords:
        names = ", ".join(sorted(keywords))
        raise UnsupportedFeature(
            f"The JSON schema uses {names} {why}".rstrip() + f" at {at or 'its root'}, which cannot be enforced.",
            "Leave it out and check the answer yourself.",
        )


def nothing(at: str) -> str:
    """Raise `BadInput`: no number is between the bounds."""
    raise BadInput(f"The bounds of the JSON schema at {at or 'its root'} leave no number.", "Widen them.")
