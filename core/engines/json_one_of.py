"""Whether a JSON schema's oneOf is as good as anyOf. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .json_limits import look_up


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
        schema = look_up(whole, schema["$ref"])
    return schema if isinstance(schema, Mapping) else {}


def _listed(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list | tuple) else []
