"""JSON schemas that no finite value matches, or that llguidance would take too long for, or another thing.

Knows no model.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from ..errors import BadInput, UnsupportedFeature
from .references import circular, least

MOST_STATES = 100_000
"""Of the remainders by what a number must be a multiple of: llguidance has a state for each."""
MOST_PATTERNS, MOST_COMBINED, MOST_NAMES = 100, 12, 5000
"""`patternProperties` of an object; patterns in a schema that combines several; names that an object must have."""
ANNOTATIONS = frozenset((
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator", "$comment",
    "$schema", "$id", "$defs", "definitions",
))  # fmt: skip
"""Keywords that constrain nothing."""
EXACT = 2**53
"""Whole numbers up to this are exact for llguidance."""


def mappings(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Everything in a schema that may be one."""
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            yield one
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one


def place_of(words: Collection[str], schema: Mapping[str, Any]) -> str:
    """Where a schema first has one of these keywords or formats, as /properties/name; empty: nowhere below its root."""
    waiting: deque[tuple[str, Any]] = deque([("", schema)])
    while waiting:
        place, one = waiting.popleft()
        if isinstance(one, Mapping):
            if any(word in one or one.get("format") == word for word in words):
                return place
            waiting += [(f"{place}/{name}", inner) for name, inner in one.items()]
        elif isinstance(one, list | tuple):
            waiting += [(f"{place}/{number}", inner) for number, inner in enumerate(one)]
    return ""


def check_effort(whole: Mapping[str, Any]) -> None:
    """Raise `UnsupportedFeature` for what would take too long, or become another value."""
    states, patterns, combines = 1, 0, False
    for schema in mappings(whole):
        if (own := _states(schema)) > MOST_STATES:
            raise _refused(f"multipleOf {schema['multipleOf']}, which is too long a number")
        states = min(states * own, MOST_STATES + 1)
        patterns += isinstance(schema.get("pattern"), str)
        combines = combines or _combines(schema)
        if isinstance(least := schema.get("minProperties"), int | float) and least > 1:
            raise _refused("minProperties above 1, as a name could come twice")
        if _size(schema, "patternProperties") > MOST_PATTERNS:
            raise _refused(f"more than {MOST_PATTERNS} patternProperties of an object")
        if _size(schema, "required") > MOST_NAMES:
            raise _refused(f"more than {MOST_NAMES:,} required properties")
        for name in ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            if name in schema and _has_large(schema[name]):
                raise _refused(f"a whole number beyond 2**53 in {name}")
    if combines and (states > MOST_STATES or patterns > MOST_COMBINED):
        raise _refused("so many patterns or multiples in a schema with allOf")


def _combines(schema: Mapping[str, Any]) -> bool:
    """Whether a value must match several schemas at once."""
    several = schema.get("allOf")
    forms = {"$ref", "anyOf", "oneOf", "allOf"} & set(schema)
    others = set(schema) - forms - ANNOTATIONS
    return bool(forms and others) or (isinstance(several, list | tuple) and len(several) > 1)


def _states(schema: Mapping[str, Any]) -> int:
    value = schema.get("multipleOf")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not value:
        return 1
    number = abs(Fraction(str(value)).numerator)
    while number % 10 == 0:
        number //= 10
    return number


def _size(schema: Mapping[str, Any], name: str) -> int:
    value = schema.get(name)
    return len(value) if isinstance(value, Mapping | list | tuple) else 0


def _has_large(value: Any) -> bool:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
        elif isinstance(one, int) and abs(one) > EXACT:
            return True
    return False


def _refused(what: str) -> UnsupportedFeature:
    return UnsupportedFeature(f"The JSON schema cannot be enforced: {what}.", "Change that part of it.")


def check_end(whole: Mapping[str, Any]) -> None:
    """Raise `BadInput` for a schema that only values without end match, or that leads to itself without a value."""
    places = {pointer: look_up(whole, pointer) for pointer in ("#", *_references(whole))}
    uses = {pointer: _references(schema) for pointer, schema in places.items()}
    ending = least(uses, lambda pointer, known: _ends(places[pointer], known))
    if "#" not in ending:
        raise BadInput("The JSON schema refers to itself without end: no value matches it.", "Give it a way to end.")
    if circle := circular({pointer: _at_once(schema) for pointer, schema in places.items()}):
        raise BadInput(
            f"The JSON schema at {min(circle)} refers to itself without end.", "Let a property or an item come between."
        )


def _references(schema: Any) -> set[str]:
    return {one["$ref"] for one in mappings(schema) if isinstance(one.get("$ref"), str)}


def _at_once(schema: Any) -> list[str]:
    """The references that stand for the same value as the schema."""
    found, waiting = [], [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            found += [one["$ref"]] if isinstance(one.get("$ref"), str) else []
            for form in ("anyOf", "oneOf", "allOf"):
                waiting += one[form] if isinstance(one.get(form), list | tuple) else ()
    return found


def look_up(whole: Any, pointer: str) -> Any:
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
    forms: tuple[tuple[str, Callable[..., bool]], ...] = (("anyOf", any), ("oneOf", any), ("allOf", all))
    for form, enough in forms:
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
