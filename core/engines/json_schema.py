"""JSON schema (2020-12 and draft 7) → GBNF. Whatever the grammar produces matches the schema; nothing is ignored.

A keyword that cannot be enforced is refused by name and place. The grammar may allow less than the schema: objects
with named properties hold no others, their order is the schema's, and a constant is spelled in one way. Knows no model
and no llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import BadInput, UnsupportedFeature
from . import json_terminals as terminals
from .json_keywords import (
    ANNOTATIONS,
    DEEPEST,
    KEYWORDS,
    bounds,
    constants_apart,
    is_of,
    json_types,
    limits,
    listed,
    look_up,
    nothing,
    refuse,
    same,
    times,
)

_SHARED = {
    "ws": r'(" " | "\n" [ \t]{0,20})?',
    "char": terminals.CHARACTER,
    "string": r'"\"" char* "\""',
    "integer": terminals.INTEGER,
    "number": terminals.NUMBER,
    "boolean": '"true" | "false"',
    "null": '"null"',
    "member": 'string ":" ws value',
    "object": '"{" ws (member ("," ws member)*)? ws "}"',
    "array": '"[" ws (value ("," ws value)*)? ws "]"',
    "value": "object | array | string | number | boolean | null",
}


def gbnf_of_schema(schema: Mapping[str, Any] | bool) -> str:
    """The grammar of a schema, as text with a rule `root`.

    Raises `UnsupportedFeature` for a keyword that the grammar would not enforce, and `BadInput` for what is no schema.
    """
    converter = _Converter(schema)
    root = converter.rule(schema, "", 0)
    rules = {"root": root, **converter.rules, **_SHARED}
    return "\n".join(f"{name} ::= {text}" for name, text in rules.items())


class _Converter:
    """Rules made so far. Methods give the text of a rule; each sub-schema gets a rule of its own."""

    def __init__(self, whole: Mapping[str, Any] | bool) -> None:
        self.rules: dict[str, str] = {}
        self._whole = whole
        self._pointers: dict[str, str] = {}
        self._kinds: Mapping[str, Callable[[Mapping[str, Any], str, int], str]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda *_: "boolean",
            "null": lambda *_: "null",
        }

    def rule(self, schema: Any, at: str, depth: int) -> str:
        """What a schema allows."""
        if schema is True:
            return "value"
        if schema is False:
            raise UnsupportedFeature(f"The JSON schema at {at or 'its root'} is false: nothing matches it.")
        if not isinstance(schema, Mapping) or not all(isinstance(key, str) for key in schema):
            raise BadInput(f"The JSON schema has {schema!r} at {at or 'its root'} where a schema is expected.")
        if depth > DEEPEST:
            raise BadInput(f"The JSON schema is over {DEEPEST} levels deep.", "Use $ref to repeat a part of it.")
        keys = set(schema) - ANNOTATIONS
        if at:
            refuse({"$id"} & set(schema), at, "below the root")
        if "$ref" in keys:
            refuse(keys - {"$ref"}, at, "beside $ref")
            return self._reference(schema["$ref"], at, depth)
        for form in ("anyOf", "oneOf", "allOf"):
            if form in keys:
                refuse(keys - {form}, at, f"beside {form}")
                return self._union(schema[form], form, at, depth)
        if "const" in keys or "enum" in keys:
            return self._constants(schema, keys, at)
        kinds = self._types(schema, keys, at)
        if "number" in kinds:
            refuse(keys & {"multipleOf"}, at, "of type number")
        refuse(keys - {"type"}.union(*(KEYWORDS[kind] for kind in kinds)), at, f"of type {' or '.join(kinds)}")
        return " | ".join(self._kinds[kind](schema, at, depth) for kind in kinds)

    def _name(self, schema: Any, at: str, depth: int) -> str:
        """The name of a sub-schema's rule."""
        return self._add(self.rule(schema, at, depth + 1))

    def _add(self, text: str) -> str:
        if text in _SHARED or text in self._pointers.values():
            return text
        name = f"r{len(self.rules)}"
        self.rules[name] = text
        return name

    def _reference(self, pointer: Any, at: str, depth: int) -> str:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            refuse({f"$ref to {pointer!r}"}, at, "(only places in the same schema, such as #/$defs/Name)")
        if pointer not in self._pointers:
            name = self._pointers[pointer] = f"ref{len(self._pointers)}"
            self.rules[name] = self.rule(look_up(self._whole, pointer, at), pointer[1:], depth + 1)
        return self._pointers[pointer]

    def _union(self, options: Any, form: str, at: str, depth: int) -> str:
        if not isinstance(options, list | tuple) or not options:
            raise BadInput(f"The JSON schema's {form} at {at or 'its root'} must be a list of schemas.")
        if form == "allOf" and len(options) > 1:
            refuse({"allOf of several schemas"}, at, "")
        names = [self._name(option, f"{at}/{form}/{i}", depth) for i, option in enumerate(options)]
        if form == "oneOf" and not self._disjoint(options, at):
            refuse({"oneOf of schemas that may both match"}, at, "(anyOf can be enforced)")
        return " | ".join(names)

    def _constants(self, schema: Mapping[str, Any], keys: set[str], at: str) -> str:
        refuse(keys - {"const", "enum", "type"}, at, "beside const or enum")
        values = [schema["const"]] if "const" in keys else schema["enum"]
        if not isinstance(values, list | tuple):
            raise BadInput(f"The JSON schema's enum at {at or 'its root'} must be a list of values.")
        if not isinstance(schema.get("enum", []), list | tuple):
            raise BadInput(f"The JSON schema's enum at {at or 'its root'} must be a list of values.")
        if "const" in keys and "enum" in keys:
            values = [value for value in values if any(same(value, other) for other in schema["enum"])]
        kinds = self._types(schema, {"type"}, at) if "type" in keys else list(KEYWORDS)
        fitting = [value for value in values if any(is_of(value, kind) for kind in kinds)]
        if not fitting:
            raise BadInput(f"No value of the JSON schema's enum or const at {at or 'its root'} is of its type.")
        try:
            return " | ".join(terminals.constant(value) for value in fitting)
        except (TypeError, ValueError) as error:
            raise BadInput(f"A constant of the JSON schema at {at or 'its root'} is no JSON value: {error}.") from error

    @staticmethod
    def _types(schema: Mapping[str, Any], keys: set[str], at: str) -> list[str]:
        given = schema.get("type")
        if given is None:
            if not keys:
                return list(KEYWORDS)
            fitting = [kind for kind, words in KEYWORDS.items() if kind != "integer" and keys & words]
            if len(fitting) != 1:
                refuse(keys, at, "without a type")
            return fitting
        kinds = [given] if isinstance(given, str) else given
        if not isinstance(kinds, list | tuple) or not kinds:
            raise BadInput(
                f"The JSON schema's type {given!r} at {at or 'its root'} is neither a name nor a list of names."
            )
        for kind in kinds:
            if not isinstance(kind, str) or kind not in KEYWORDS:
                raise BadInput(f"The JSON schema's type {kind!r} at {at or 'its root'} does not exist.")
        return list(kinds)

    # -- types ---------------------------------------------------------------------------------------------------

    def _object(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping):
            raise BadInput(f"The JSON schema's properties at {at or 'its root'} must be an object of schemas.")
        if not isinstance(required, list | tuple) or not all(isinstance(name, str) for name in required):
            raise BadInput(f"The JSON schema's required at {at or 'its root'} must be a list of names.")
        extra = schema.get("additionalProperties", True)
        named = {**properties, **{name: extra for name in required if name not in properties}}
        least, most = bounds(schema, "minProperties", "maxProperties", at)
        if not named:
            return self._open_object(extra, least, most, at, depth)
        refuse({"minProperties", "maxProperties"} & set(schema), at, "beside named properties")
        members = []
        for name, sub in named.items():
            if sub is False and name not in required:
                continue
            value = self._name(sub, f"{at}/properties/{name}", depth)
            members.append((f'{terminals.constant(name)} ":" ws {value}', name in required))
        return f'"{{" ws {self._members(members)} ws "}}"'

    def _open_object(self, extra: Any, least: int, most: int | None, at: str, depth: int) -> str:
        if extra is False or most == 0:
            if least:
                raise BadInput(f"The JSON schema at {at or 'its root'} wants properties and allows none.")
            return '"{" ws "}"'
        if least > 1:
            refuse({f"minProperties {least}"}, at, "without named properties")
        value = self._name(extra, f"{at}/additionalProperties", depth)
        member = "member" if value == "value" else self._add(f'string ":" ws {value}')
        return f'"{{" ws {listed(member, least, most)} ws "}}"'

    def _members(self, members: list[tuple[str, bool]]) -> str:
        """Members in order, optional ones with their commas: `first` while nothing is written, `later` after."""
        first = later = ""
        for text, needed in reversed(members):
            go_on = f" {later}" if later else ""
            after = f'"," ws {text}{go_on}' if needed else f'("," ws {text})?{go_on}'
            first = f"{text}{go_on}" if needed else f"({text}{go_on} | {first})" if first else f"({text})?"
            first, later = self._add(first), self._add(after)
        return first

    def _array(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        least, most = bounds(schema, "minItems", "maxItems", at)
        items, prefix = schema.get("items", True), schema.get("prefixItems", [])
        if not isinstance(prefix, list | tuple):
            raise BadInput(f"The JSON schema's prefixItems at {at or 'its root'} must be a list of schemas.")
        head = list(prefix if most is None else prefix[:most])
        if items is False:
            most = len(head) if most is None else min(most, len(head))
        elif "items" not in schema and head:
            most = max(least, len(head))  # what follows named items is left out where it may be
        if least > (least if most is None else most):
            raise BadInput(f"The JSON schema at {at or 'its root'} wants at least {least} items and allows fewer.")
        names = [self._name(sub, f"{at}/prefixItems/{index}", depth) for index, sub in enumerate(head)]
        rest_least, rest_most = max(0, least - len(head)), None if most is None else most - len(head)
        if rest_most == 0:
            return '"[" ws ' + ' "," ws '.join(names) + ' ws "]"'
        item = self._name(items, f"{at}/items", depth)
        if not names:
            return f'"[" ws {listed(item, rest_least, rest_most)} ws "]"'
        return '"[" ws ' + ' "," ws '.join(names) + f' ("," ws {item}){times(rest_least, rest_most)} ws "]"'

    @staticmethod
    def _string(schema: Mapping[str, Any], at: str, depth: int) -> str:
        least, most = bounds(schema, "minLength", "maxLength", at)
        if "format" in schema:
            refuse({"minLength", "maxLength"} & set(schema), at, "beside format")
            kind = schema["format"]
            if not isinstance(kind, str) or kind not in terminals.FORMATS:
                refuse({f"format {kind!r}"}, at, f"(known: {', '.join(terminals.FORMATS)})")
            return f'"\\"" {terminals.FORMATS[kind]} "\\""'
        return "string" if (least, most) == (0, None) else f'"\\"" char{times(least, most)} "\\""'

    @staticmethod
    def _integer(schema: Mapping[str, Any], at: str, depth: int) -> str:
        if schema.get("multipleOf", 1) != 1:
            refuse({"multipleOf"}, at, "of type integer")
        low, high, above, below = limits(schema, at)
        if low is None and high is None:
            return "integer"
        text = terminals.integer(low + above if low is not None else None, high - below if high is not None else None)
        return text or nothing(at)

    @staticmethod
    def _number(schema: Mapping[str, Any], at: str, depth: int) -> str:
        low, high, above, below = limits(schema, at)
        if low is None and high is None:
            return "number"
        return terminals.number(low, high, above=above, below=below) or nothing(at)

    # -- oneOf ---------------------------------------------------------------------------------------------------

    def _disjoint(self, options: Sequence[Any], at: str) -> bool:
        """Whether no value can match two of the schemas, as far as types, constants and tags tell."""
        found = [self._resolved(option, at) for option in options]
        return all(self._apart(found[i], found[j], at) for i in range(len(found)) for j in range(i))

    def _apart(self, one: Mapping[str, Any], two: Mapping[str, Any], at: str) -> bool:
        if not json_types(one) & json_types(two) or constants_apart(one, two):
            return True
        if not json_types(one) == json_types(two) == {"object"}:
            return False
        tags = set(one.get("required", ())) & set(two.get("required", ()))
        return any(
            constants_apart(*(self._resolved(option.get("properties", {}).get(tag), at) for option in (one, two)))
            for tag in tags
        )

    def _resolved(self, schema: Any, at: str) -> Mapping[str, Any]:
        for _ in range(DEEPEST):
            if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
                break
            schema = look_up(self._whole, schema["$ref"], at)
        return schema if isinstance(schema, Mapping) else {}
