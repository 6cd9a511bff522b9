"""JSON schemas are enforced, so that every text that matches validates by `jsonschema`, or they are refused."""

import datetime
import json
import time
import uuid
from random import Random
from typing import Literal

import jsonschema
import pytest
from constrained import constraint, matches, written
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from hanpaca.core.errors import BadInput, UnsupportedFeature


def draw(schema, count=12):
    """Values of texts that match the schema."""
    chance = Random(7)
    texts = [written(chance, schema) for _ in range(count)]
    return [json.loads(text) for text in texts if text is not None]


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
    "bounds near which numbers round": {"type": "number", "exclusiveMinimum": 99, "exclusiveMaximum": 100},
    "parentheses in constants": {"const": "(" * 150},
    "recursive model": Node.model_json_schema(),
    "tagged union": Owner.model_json_schema(),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_drawn_matches_the_schema(name):
    schema = SCHEMAS[name]
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    found = draw(schema)
    assert found
    for value in found:
        validator.validate(value)


def test_every_member_of_an_enum_and_every_optional_part_can_come():
    assert all(matches(text, json_schema={"enum": ["x", "y", 3]}) for text in ('"x"', '"y"', "3"))
    for text in ("{}", '{"a":null}', '{"b":null}', '{"a":null,"b":null}'):
        assert matches(text, json_schema=SCHEMAS["all optional"])
    assert not matches('{"b":null,"a":null}', json_schema=SCHEMAS["all optional"])  # the order is the schema's


def test_dates_and_times_exist():
    schema = {
        "type": "object",
        "properties": {f: {"type": "string", "format": f} for f in ("date", "time", "date-time", "uuid")},
        "required": ["date", "time", "date-time", "uuid"],
    }
    for value in draw(schema):
        datetime.date.fromisoformat(value["date"])
        datetime.time.fromisoformat(value["time"])
        datetime.datetime.fromisoformat(value["date-time"])
        uuid.UUID(value["uuid"])
    for text in ("2000-02-29", "1900-02-29", "2024-02-29", "2023-02-29", "2023-04-31", "2023-12-31", "0000-01-01"):
        assert matches(f'"{text}"', json_schema={"type": "string", "format": "date"}) == is_date(text)


def is_date(text):
    try:
        return bool(datetime.date.fromisoformat(text))
    except ValueError:
        return False


@given(low=st.integers(-5000, 5000), width=st.integers(0, 9000), near=st.integers(-9999, 14999), data=st.data())
def test_bounds_of_numbers_are_exact(low, width, near, data):
    high, above, below = low + width, data.draw(st.booleans()), data.draw(st.booleans())
    bounds = {"exclusiveMinimum" if above else "minimum": low, "exclusiveMaximum" if below else "maximum": high}
    value = data.draw(st.sampled_from((near, low - 1, low, low + 1, high - 1, high, high + 1)))
    if low + above > high - below:
        with pytest.raises(UnsupportedFeature, match="Unsatisfiable"):
            constraint(json_schema={"type": "integer", **bounds})
        return
    inside = (low < value if above else low <= value) and (value < high if below else value <= high)
    for kind in ("integer", "number"):
        assert matches(f"{value}", json_schema={"type": kind, **bounds}) == inside
    for fraction in (0.0, 0.25):
        found = matches(f"{value + fraction}", json_schema={"type": "number", **bounds})
        assert found if low < value + fraction < high else not found or inside  # a bound may have to be written plainly


def test_pydantic_models_read_what_is_drawn():
    for model in (Node, Owner):
        for value in draw(model.model_json_schema()):
            model.model_validate(value)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "pattern": "^[A-Z]{2}$"}, ['"AB"'], ['"ABC"', '"ab"', "AB"]),
        ({"type": "array", "items": {"type": "string", "format": "email"}}, ['["a@b.org"]', "[]"], ['["a"]']),
        (
            {"allOf": [{"properties": {"a": {"type": "null"}}}, {"required": ["b"]}]},
            ['{"a":null,"b":1}'],
            ['{"a":null}'],
        ),
        ({"properties": {"a": {}}, "required": ["a"], "type": "object"}, ['{"a":1}'], ['{"a":1,"b":2}', "{}"]),
        ({"properties": {}, "type": "object"}, ["{}", "{ }"], ['{"a":1}']),
        ({"properties": {"a": {}}, "additionalProperties": True, "type": "object"}, ['{"a":1,"b":2}', "{}"], ["1"]),
        ({"type": "integer"}, ["9" * 15, "-1", "0"], ["9" * 16, "01", "1.5"]),
        ({"type": "number", "multipleOf": 0.5}, ["1.5", "2"], ["1.3"]),
        ({"type": ["integer", "null"]}, ["null", "9" * 15], ["9" * 16]),
        ({"type": "integer", "minimum": 10**15}, ["1" + "0" * 15], ["5"]),
        ({"type": "integer", "const": 10**15}, ["1" + "0" * 15], ["5"]),
        ({"type": "string", "pattern": '^[^"]*$'}, ['"ab"'], ['"a\\"b"']),
        ({"type": "string", "pattern": "^[^<>/|?*]+$"}, ['"ab"'], ['"a/b"']),
        ({"oneOf": [{"const": 1}, {"const": 2}]}, ["1", "2"], ["3"]),
        ({"oneOf": [{"enum": [1, 2]}, {"enum": [3]}]}, ["1", "3"], ["4"]),
        ({"type": "array", "items": {"type": "null"}, "uniqueItems": False}, ["[null,null]"], ["[1]"]),
        ({"type": "object", "propertyNames": {"type": "string"}, "unevaluatedProperties": True}, ['{"a":1}'], ["1"]),
        ({}, ['{"a": [1, "x"]}', "null"], ["a"]),
        ({"type": "array", "maxItems": 2}, ["[1,\n  2]", "[ ]"], ["[1,  2]", "[1,2,3]"]),
        ({"const": {"format": "date", "type": 3}}, ['{"format":"date","type":3}'], ["{}"]),
    ],
)
def test_what_matches(schema, good, bad):
    assert [text for text in good if not matches(text, json_schema=schema)] == []
    assert [text for text in bad if matches(text, json_schema=schema)] == []


def test_the_place_of_what_cannot_be_enforced_is_told():
    for schema, what in (
        ({"uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "iri"}, "format: iri"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf of schemas that may both match; anyOf can be"),
    ):
        whole = {"type": "object", "properties": {"a": {}, "b": {"type": "array", "items": schema}}}
        with pytest.raises(UnsupportedFeature, match=rf"{what}.* \(at /properties/b/items\)"):
            constraint(json_schema=whole)


def test_no_name_comes_twice_in_two_spellings():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    extras: list[dict] = [{"additionalProperties": {"type": "string"}}, {"patternProperties": {"^[b-z]": {}}}]
    for extra in extras:
        assert not matches('{"a":1,"\\u0061":"x"}', json_schema=schema | extra)
        assert matches('{"a":1,"b":"x\\n"}', json_schema=schema | extra)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
        ({"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "maxProperties": 2}, "maxProperties"),
        ({"oneOf": [{"const": [1, {"a": 2}]}, {"enum": [[1.5], "x"]}]}, "oneOf"),
        ({"type": "object", "minProperties": 2}, "minProperties above 1"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}, "oneOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "string", "format": "iri"}, "iri"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "pattern": r"^\P{L}$"}, "P in the pattern"),
        ({"enum": [2**53 + 1]}, "beyond"),
        ({"const": {"a": [-(2**60)]}}, "beyond"),
        ({"type": "integer", "minimum": 2**53 + 1}, "beyond"),
        ({"type": "integer", "multipleOf": 3_000_017}, "multipleOf 3000017"),
        ({"allOf": [{"type": "integer", "multipleOf": p} for p in (9973, 9967, 9949)]}, "multiples"),
        ({"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{k}}}$"} for k in range(20)]}, "many patterns"),
        ({"type": "object", "patternProperties": {f"^p{n}_": {} for n in range(200)}}, "patternProperties"),
        ({"type": "object", "required": [f"p{n}" for n in range(6000)]}, "required properties"),
        ({"oneOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]}, "oneOf"),
        ({"$ref": "https://example.org/schema.json"}, "example.org"),
    ],
)
def test_what_cannot_be_enforced_is_refused(schema, why):
    with pytest.raises(UnsupportedFeature, match=f"cannot be enforced: .*{why}"):
        constraint(json_schema={"type": "object", "properties": {"deep": schema}, "required": ["deep"]})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "text"}, {"type": []}, {"type": 3}, {"properties": []}, {"properties": {"a": 3}},
        {"type": "object", "required": "a"}, {"type": "object", "required": [1], "properties": {}}, {"enum": []},
        {"enum": "abc"}, {"type": "string", "const": 3}, {"anyOf": []}, {"anyOf": {"type": "string"}},
        {"$ref": "#/$defs/none"}, {"type": "string", "minLength": 4, "maxLength": 3},
        {"type": "array", "minItems": 3, "maxItems": 2, "items": {}}, {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "integer", "exclusiveMinimum": 2, "exclusiveMaximum": 3}, {"const": float("nan")},
        {"type": "number", "minimum": None}, {"type": "number", "maximum": float("inf")},
        {"oneOf": [{"type": "object", "required": 3}, {"type": "null"}]}, {"const": {1, 2}}, {"enum": ["\ud800"]},
        {"oneOf": [{"properties": []}, {"type": "null"}]}, {"const": 1, "enum": 3}, {"type": [{}]},
        {"type": "array", "prefixItems": {}}, {"type": "array", "items": False, "minItems": 1},
    ],
)  # fmt: skip
def test_what_is_no_schema_says_so(schema):
    with pytest.raises(BadInput, match="JSON schema"):
        constraint(json_schema=schema)


class V1(BaseModel):
    version: Literal[1]
    a: int


class V2(BaseModel):
    version: Literal[2]
    b: str = Field(max_length=3)


class Versions(BaseModel):
    one: V1 | V2 = Field(discriminator="version")


def test_numbers_tell_tagged_models_apart():
    found = draw(Versions.model_json_schema())
    assert {Versions.model_validate(value).one.version for value in found} == {1, 2}


def test_definitions_in_any_order_are_followed_in_no_time():
    names = list(range(1, 6000))
    Random(1).shuffle(names)
    steps = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n - 1}"}]} for n in names}
    schema = {"$ref": "#/$defs/d5999", "$defs": {"d0": {"type": "null"}, **steps}}
    start = time.thread_time()
    assert matches("null", json_schema=schema)
    assert time.thread_time() - start < 20


def test_schemas_that_are_too_deep_are_refused():
    deep: dict = {"type": "string"}
    for _ in range(5000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(BadInput, match="levels"):
        constraint(json_schema=deep)


def chain(count, step):
    """Definitions of which each leads to the next."""
    steps = {f"d{n}": step({"$ref": f"#/$defs/d{n + 1}"}) for n in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**steps, f"d{count}": {"type": "null"}}}


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (lambda inner: inner, "null"),
        (lambda inner: {"type": "array", "items": inner}, "[[]]"),
        (lambda inner: {"anyOf": [inner, {"type": "string"}]}, '"a"'),
        (lambda inner: {"type": "object", "properties": {"a": inner}}, '{"a":{}}'),
    ],
)
def test_long_ways_through_references_are_followed(step, text):
    assert matches(text, json_schema=chain(2000, step))


LOOP = {"type": "array", "items": {"$ref": "#/$defs/B"}, "minItems": 1}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"next": {"$ref": "#"}}, "required": ["next"]},
        {"$ref": "#/$defs/B", "$defs": {"B": LOOP}},
        {"allOf": [{"$ref": "#"}, {"type": "string"}]},
        {"anyOf": [{"$ref": "#"}, {"type": "string"}]},
        {"$ref": "#/$defs/A", "$defs": {"A": {"anyOf": [{"$ref": "#/$defs/C"}, {}]}, "C": {"$ref": "#/$defs/A"}}},
    ],
)
def test_schemas_that_refer_to_themselves_without_end_are_refused(schema):
    with pytest.raises(BadInput, match=r"JSON schema .*refers to itself without end"):
        constraint(json_schema=schema)
