"""JSON schemas that no finite value matches, or that llguidance would take too long for, or another thing.

Knows no model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from ..errors import BadInput, UnsupportedFeature

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
    waiting: list[tuple[str, Any]] = [("", schema)]
    while waiting:
        place, one = waiting.pop(0)
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
        states *= _states(schema) if states <= MOST_STATES else 1
        patterns += isinstance(schema.get("pattern"), str)
        combines = combines or _combines(schema)
        if isinstance(least := schema.get("minProperties"), int | float) and least > 1:
            raise _refused("minProperties above 1, as a name could come twice")
        if _size(schema, "patternProperties") > MOST_PATTERNS:
            raise _refused(f"more than {MOST_PATTERNS} patternProperties of an object")
        if _size(schema, "required") > MOST_NAMES:
            raise _refused(f"more than {MOST_NAMES:,} required properties")
        if _states(schema) > MOST_STATES:
            raise _refused(f"multipleOf {schema['multipleOf']}, which is too long a number")
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
    pointers = {"#", *(one["$ref"] for one in mappings(whole) if isinstance(one.get("$ref"), str))}
    places = {pointer: _at(whole, pointer) for pointer in pointers}
    users: dict[str, list[str]] = {}
    for pointer, schema in places.items():
        for used in {one["$ref"] for one in mappings(schema) if isinstance(one.get("$ref"), str)}:
            users.setdefault(used, []).append(pointer)
    ending: set[str] = set()
    waiting = list(pointers)
    while waiting:
        pointer = waiting.pop()
        if pointer not in ending and _ends(places[pointer], ending):
            ending.add(pointer)
            waiting += users.get(pointer, ())
    if not _ends(whole, ending):
        raise BadInput("The JSON schema refers to itself without end: no value matches it.", "Give it a way to end.")
    _check_circles({pointer: _at_once(schema) for pointer, schema in places.items()})


def _check_circles(leads: Mapping[str, Collection[str]]) -> None:
    """Raise `BadInput` where references lead back to where they began with no value between."""
    left = {pointer: len(set(others)) for pointer, others in leads.items()}
    users: dict[str, list[str]] = {}
    for pointer, others in leads.items():
        for other in set(others):
            users.setdefault(other, []).append(pointer)
    waiting = [pointer for pointer, count in left.items() if not count]
    while waiting:
        for user in users.get(waiting.pop(), ()):
            left[user] -= 1
            if not left[user]:
                waiting.append(user)
    if circle := sorted(pointer for pointer, count in left.items() if count):
        raise BadInput(
            f"The JSON schema at {circle[0]} refers to itself without end.", "Let a property or an item come between."
        )


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


def apart(options: Any, whole: Mapping[str, Any]) -> bool:
    """Whether no value matches two of the schemas, as far as constants, or constants of a property that all must have,
    tell: then oneOf is anyOf."""
    if not isinstance(options, list | tuple):
        return False
    found = [_resolved(option, whole) for option in options]
    if _differ([_constants(option) for option in found]):
        return True
    if not found or any(option.get("type") != "object" for option in found):
        return False
    return any(
        _differ([_constants(_resolved((option.get("properties") or {}).get(tag), whole)) for option in found])
        for tag in set.intersection(*(set(_listed(option.get("required"))) for option in found))
    )


def _differ(values: list[set[str] | None]) -> bool:
    """Whether there are constants everywhere, and none twice."""
    known = [value for value in values if value is not None]
    return 0 < len(known) == len(values) and sum(map(len, known)) == len(set.union(*known))


def _constants(schema: Mapping[str, Any]) -> set[str] | None:
    """The values that a schema names, as text; None where it names none, or what may be written in two ways."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list | tuple) or not all(isinstance(value, str | int | None) for value in values):
        return None
    return {json.dumps(value) for value in values}


def _resolved(schema: Any, whole: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(10):
        if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
            break
        schema = _at(whole, schema["$ref"])
    return schema if isinstance(schema, Mapping) else {}


def _listed(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list | tuple) else []


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
