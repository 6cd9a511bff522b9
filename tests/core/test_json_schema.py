"""JSON schemas become grammars whose every sentence matches: drawn by llama.cpp itself, checked by `jsonschema`."""

import datetime
import json
import re
import uuid
from typing import Literal

import gguf_files
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from hanpaca.core.engines import json_terminals as terminals
from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Request
from hanpaca.core.engines.json_schema import gbnf_of_schema
from hanpaca.core.engines.llama_cpp import LlamaCppEngine, LlamaCppOptions
from hanpaca.core.errors import BadInput, UnsupportedFeature
from hanpaca.core.gguf_header import read, rope_of
from hanpaca.core.sampling import Sampling


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = gguf_files.write_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", context=2048)
    engine = LlamaCppEngine(path, rope_of(read(path)), LlamaCppOptions())
    yield engine
    engine.close()


def draw(engine, schema, count=12, max_tokens=600):
    """What random weights write under the schema, where they came to its end."""
    bias = {3 + ord(character): 2.5 for character in '"}]'}
    bias |= {3 + byte: 2.5 for byte in (0xE0, 0xED, 0xF0, 0xF4)}  # what may begin half a pair, or too long a form
    requests = []
    for seed in range(count):
        sampling = Sampling(
            max_tokens=max_tokens, temperature=1.3, top_k=0, top_p=1, seed=seed, json_schema=schema, logit_bias=bias,
            repetition_penalty=1.0,
        )  # fmt: skip
        requests.append(Request([1, 290 + seed % 5], sampling))
    answers = streams.complete(engine, requests)
    return [json.loads(answer.text) for answer in answers if answer.finish_reason == "stop"]


class Node(BaseModel):
    """A recursive model: pydantic refers to it from the root."""

    name: str = Field(max_length=4)
    next: "Node | None" = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    age: float = Field(gt=0, lt=30)


class Owner(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")
    tags: list[Literal["a", "b"]] = Field(default=[], max_length=3)
    extra: dict[str, int] | None = None


SCHEMAS = {
    "escapes in constants": {"enum": ['say "hi"', "back\\slash", "line\nbreak", "中文 é", "\u0001"]},
    "constants of a type": {"type": "string", "enum": ["a", 1, None]},
    "one constant": {"const": {"a": [1, 2.5, "x"], "b": None}},
    "escaped names": {"type": "object", "properties": {'a"b': {"const": 1}, "c\\d": {"const": 2}}, "required": ['a"b']},
    "optional members": {
        "type": "object",
        "properties": {name: {"type": "boolean"} for name in "abcd"},
        "required": ["c"],
        "additionalProperties": False,
    },
    "all optional": {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}},
    "required without a property": {"type": "object", "properties": {}, "required": ["a"]},
    "pointers with escapes": {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "boolean"}, "b": {"type": "null"}}},
    "two definitions of one name": {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/one/T"}, "y": {"$ref": "#/$defs/two/T"}},
        "required": ["x", "y"],
        "$defs": {"one": {"T": {"type": "boolean"}}, "two": {"T": {"type": "null"}}},
    },
    "allOf in a constant": {"const": {"allOf": [1]}},
    "bounds": {"type": "array", "items": {"type": "integer", "minimum": -12, "exclusiveMaximum": 105}, "minItems": 3,
               "maxItems": 5},
    "fractions in bounds": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "lengths": {"type": "string", "minLength": 2, "maxLength": 5},
    "types with lengths": {"type": ["string", "null"], "maxLength": 3},
    "tuples": {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False, "minItems": 2},
    "tuples that go on": {
        "type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "boolean"}, "maxItems": 4,
    },
    "a dict": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}, "maxProperties": 3},
    "oneOf of types": {"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}]},
    "tagged oneOf of constants": {"oneOf": [{"const": [1, {"a": 2}]}, {"enum": [[1.5], "x"]}]},
    "bounds near which numbers round": {"type": "number", "exclusiveMinimum": 99, "exclusiveMaximum": 100},
    "parentheses in constants": {"const": "(" * 150},
    "recursive model": Node.model_json_schema(),
    "tagged union": Owner.model_json_schema(),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_drawn_matches_the_schema(tiny, name):
    schema = SCHEMAS[name]
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    found = draw(tiny, schema)
    assert found
    for value in found:
        validator.validate(value)


def test_every_member_of_an_enum_and_every_optional_part_can_come(tiny):
    drawn = {json.dumps(value) for value in draw(tiny, {"enum": ["x", "y", 3]}, count=40)}
    assert drawn == {'"x"', '"y"', "3"}
    shapes = {tuple(value) for value in draw(tiny, SCHEMAS["all optional"], count=60)}
    assert shapes == {(), ("a",), ("b",), ("a", "b")}


def test_dates_and_times_exist(tiny):
    schema = {
        "type": "object",
        "properties": {f: {"type": "string", "format": f} for f in ("date", "time", "date-time", "uuid")},
        "required": ["date", "time", "date-time", "uuid"],
    }
    for value in draw(tiny, schema):
        datetime.date.fromisoformat(value["date"])
        datetime.time.fromisoformat(value["time"])
        datetime.datetime.fromisoformat(value["date-time"])
        uuid.UUID(value["uuid"])
    day = re.compile(regex_of(terminals.DATE))
    for text in ("2000-02-29", "1900-02-29", "2024-02-29", "2023-02-29", "2023-04-31", "2023-12-31", "0000-01-01"):
        assert bool(day.fullmatch(text)) == is_date(text)


def is_date(text):
    try:
        return bool(datetime.date.fromisoformat(text))
    except ValueError:
        return False


def regex_of(rule):
    """A rule without references as a regular expression."""
    parts = re.findall(r'"[^"]*"|\[[^]]*\]|[^" \[]+', rule)
    return "".join(f"(?:{re.escape(part[1:-1])})" if part[0] == '"' else part for part in parts)


@given(low=st.integers(-5000, 5000), width=st.integers(0, 9000), near=st.integers(-9999, 14999), data=st.data())
def test_bounds_of_numbers_are_exact(low, width, near, data):
    high, above, below = low + width, data.draw(st.booleans()), data.draw(st.booleans())
    whole = re.compile(regex_of(terminals.integer(low, high)))
    some = terminals.number(low, high, above=above, below=below)
    fraction = re.compile(regex_of(some)) if some else None
    for value in (near, low - 1, low, low + 1, high - 1, high, high + 1):
        assert bool(whole.fullmatch(str(value))) == (low <= value <= high)
        for text in (f"{value}", f"{value}.0", f"{value}.25"):
            inside = (low < float(text) if above else low <= float(text)) and (
                float(text) < high if below else float(text) <= high
            )
            assert bool(fraction and fraction.fullmatch(text)) == inside


def test_pydantic_models_read_what_is_drawn(tiny):
    for model in (Node, Owner):
        for value in draw(tiny, model.model_json_schema()):
            model.model_validate(value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number", "multipleOf": 2},
        {"type": "integer", "minimum": 0.5},
        {"type": "string", "format": "email"},
        {"type": "string", "pattern": "^a"},
        {"type": "string", "format": "date", "maxLength": 3},
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        {"type": "object", "patternProperties": {"^a": {"type": "string"}}},
        {"type": "object", "properties": {"a": {}}, "maxProperties": 1},
        {"allOf": [{"type": "object"}, {"type": "object"}]},
        {"anyOf": [{"type": "string"}], "maxLength": 3},
        {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"oneOf": [{"properties": {"a": {}}, "required": ["a"]}, {"type": "string"}]},
        {"oneOf": [{"const": [1]}, {"const": [1.0]}]},
        {"type": ["integer", "number"], "multipleOf": 1},
        {"$id": "other", "type": "string"},
        {"type": "number", "minimum": None},
        {"type": "number", "maximum": float("inf")},
        {"not": {"type": "string"}},
        {"$ref": "https://example.org/schema.json"},
        {"$ref": "#/$defs/a", "maxLength": 3, "$defs": {"a": {"type": "string"}}},
        {"enum": ["a"], "minLength": 3},
        {"type": "string", "minLength": 10**9},
    ],
)
def test_what_cannot_be_enforced_is_refused(schema):
    with pytest.raises(UnsupportedFeature, match="cannot be enforced"):
        gbnf_of_schema({"type": "object", "properties": {"deep": schema}} | {"$defs": schema.get("$defs", {})})


@pytest.mark.parametrize(
    "schema",
    [
        [], "string", {"type": "text"}, {"type": []}, {"type": 3}, {"properties": []}, {"properties": {"a": 3}},
        {"type": "object", "required": "a"}, {"type": "object", "required": [1], "properties": {}}, {"enum": []},
        {"enum": "abc"}, {"type": "string", "const": 3}, {"anyOf": []}, {"anyOf": {"type": "string"}},
        {"$ref": "#/$defs/none"}, {"type": "string", "minLength": 4, "maxLength": 3},
        {"type": "array", "minItems": 3, "maxItems": 2, "items": {}}, {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "integer", "exclusiveMinimum": 2, "exclusiveMaximum": 3}, {"const": float("nan")},
        {"type": "number", "minimum": 10, "maximum": 2},
        {"oneOf": [{"type": "object", "required": 3}, {"type": "null"}]},
        {"oneOf": [{"properties": []}, {"type": "null"}]}, {"const": 1, "enum": 3}, {"type": [{}]},
        {"type": "array", "prefixItems": {}}, {"type": "array", "items": False, "minItems": 1}, {1: 2},
    ],
)  # fmt: skip
def test_what_is_no_schema_says_so(schema):
    with pytest.raises(BadInput):
        gbnf_of_schema(schema)


def test_schemas_that_are_too_deep_are_refused():
    deep: dict = {"type": "string"}
    for _ in range(500):
        deep = {"type": "array", "items": deep}
    with pytest.raises(BadInput, match="levels"):
        gbnf_of_schema(deep)


LOOP = {"type": "array", "items": {"$ref": "#/$defs/B"}, "minItems": 1}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"next": {"$ref": "#"}}, "required": ["next"]},
        {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/B"}], "$defs": {"B": LOOP}},
        {"anyOf": [{"$ref": "#"}, {"type": "string"}]},
    ],
)
def test_schemas_that_refer_to_themselves_without_end_are_refused(tiny, schema):
    with pytest.raises(BadInput, match="JSON schema"):
        draw(tiny, schema, count=1)
