"""Any schema and any pydantic model: either refused, or whatever the grammar lets through validates."""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from llama_engines import ask, open_engine
from pydantic import BaseModel, Field, create_model

from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Completion, Request
from hanpaca.core.engines.json_schema import lark_of_schema
from hanpaca.core.engines.llama_cpp import LlamaCppEngine
from hanpaca.core.errors import BadInput, UnsupportedFeature
from hanpaca.core.sampling import Sampling

Schema = dict[str, Any] | bool

names = st.sampled_from(["a", "b", "long name", 'a"b', "c\\d", "中文", "\n", "", "é\u0001"])
small = st.integers(-130, 130)
values = st.recursive(
    st.none() | st.booleans() | small | st.floats(-1e6, 1e6, width=32) | st.text(max_size=4) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)


def some(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of these keywords."""
    return st.fixed_dictionaries({}, optional=keywords)


def typed(kind: str | list[str], **keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    return some(**keywords).map(lambda found: {"type": kind, **found})


bounds = {name: small for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")}
lengths = {"minLength": st.integers(0, 3), "maxLength": st.integers(0, 5)}
scalars: st.SearchStrategy[Schema] = st.one_of(
    typed("integer", **bounds),
    typed("number", **bounds),
    typed("string", **lengths),
    typed(["string", "integer", "null"], **lengths, **bounds),
    st.sampled_from(["date", "time", "date-time", "uuid", "email"]).map(lambda f: {"type": "string", "format": f}),
    st.lists(values, min_size=1, max_size=4).map(lambda found: {"enum": found}),
    values.map(lambda value: {"const": value}),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, True, False, {"type": "string", "pattern": "^a"}]),
    st.sampled_from(["#/$defs/A", "#/$defs/B", "#"]).map(lambda where: {"$ref": where}),
)


def larger(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Schemas made of others."""
    named = st.dictionaries(names, inner, max_size=3)
    extra = st.booleans() | inner
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        typed("array", items=inner, minItems=st.integers(0, 2), maxItems=st.integers(0, 3)),
        typed("array", prefixItems=st.lists(inner, max_size=2), items=extra, minItems=st.integers(0, 3)),
        typed("object", properties=named, required=st.lists(names, max_size=2), additionalProperties=extra),
        typed("object", additionalProperties=extra, minProperties=st.integers(0, 1), maxProperties=st.integers(0, 2)),
        typed(["object", "array"], properties=named, items=inner, maxItems=st.just(2), uniqueItems=st.just(True)),
        st.tuples(st.sampled_from(["anyOf", "anyOf", "oneOf", "allOf"]), several).map(lambda pair: {pair[0]: pair[1]}),
    )


schemas = st.recursive(scalars, larger, max_leaves=5)
whole_schemas = st.tuples(schemas, schemas, schemas).map(
    lambda found: {**(found[0] if isinstance(found[0], dict) else {}), "$defs": {"A": found[1], "B": found[2]}}
)


@pytest.fixture(scope="module")
def random_weights(tiny_file: Path) -> Iterator[LlamaCppEngine]:
    engine = open_engine(tiny_file)
    yield engine
    engine.close()


def drawn(engine: LlamaCppEngine, prompt: list[int], schema: dict[str, Any], count: int = 4) -> list[Completion]:
    """What the model writes at a high temperature under the schema, with a liking for what ends things."""
    ends = {token: 2.5 for mark in ('"', "}", "]") for token in engine.tokenize(mark)[-1:]}
    sampling = Sampling(
        max_tokens=160, temperature=1.4, top_k=0, top_p=1, min_p=0.001, logit_bias=ends, repetition_penalty=1.0,
        json_schema=schema,
    )  # fmt: skip
    return streams.complete(engine, [Request(prompt, sampling.replace(seed=seed)) for seed in range(count)])


def finished(engine: LlamaCppEngine, prompt: list[int], schema: dict[str, Any]) -> list[str]:
    """The answers that came to their end; unfinished ones promise nothing. None where the schema is refused."""
    try:
        note(lark_of_schema(schema))
        answers = drawn(engine, prompt, schema)
    except (UnsupportedFeature, BadInput) as error:
        assert "schema" in str(error)
        return []
    found = [answer.text for answer in answers if answer.finish_reason == "stop"]
    note("\n".join(found))
    return found


def check_schemas(engine: LlamaCppEngine, prompt: list[int], examples: int, *, fixed: bool) -> None:
    """`fixed`: the same schemas in every run."""
    validated = 0

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=fixed, database=None
    )
    @given(whole_schemas)
    def run(schema: dict[str, Any]) -> None:
        nonlocal validated
        validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        for text in finished(engine, prompt, schema):
            validator.validate(json.loads(text))
            validated += 1

    run()
    assert validated >= examples / 4, "hardly anything was drawn: the test says nothing"


def test_whatever_a_grammar_lets_through_validates(random_weights: LlamaCppEngine) -> None:
    check_schemas(random_weights, [1, 290], 25, fixed=True)


@pytest.mark.slow
def test_what_a_real_model_writes_at_a_high_temperature_validates(smol: LlamaCppEngine) -> None:
    check_schemas(smol, ask(smol, "Answer in JSON."), 120, fixed=False)


class Colour(enum.Enum):
    RED = "red"
    QUOTED = 'a"b\\c'


class Inner(BaseModel):
    n: int = Field(ge=-3, lt=12)
    next: Inner | None = None


kinds: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([
        int, float, str, bool, None, Colour, Inner, datetime.date, datetime.datetime, uuid.UUID, Any,
        Literal["a", 'b"', 3, None], Annotated[int, Field(gt=-7, le=205)], Annotated[float, Field(gt=0, lt=5)],
        Annotated[str, Field(min_length=1, max_length=3)],
    ]),
    lambda inner: st.one_of(
        inner.map(lambda kind: list[kind]),  # type: ignore[valid-type]
        inner.map(lambda kind: Annotated[list[kind], Field(min_length=1, max_length=2)]),  # type: ignore[valid-type]
        inner.map(lambda kind: dict[str, kind]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(lambda pair: tuple[pair]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1] if pair[0] and pair[1] else pair[0]),
    ),
    max_leaves=3,
)  # fmt: skip


def test_pydantic_reads_what_its_own_schema_lets_through(random_weights: LlamaCppEngine) -> None:
    validated = 0

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(st.lists(st.tuples(kinds, st.booleans()), min_size=1, max_size=3))
    def run(fields: list[tuple[Any, bool]]) -> None:
        nonlocal validated
        made: dict[str, Any] = {f"f{i}": (kind, ... if needed else None) for i, (kind, needed) in enumerate(fields)}
        model = create_model("Made", **made)
        for text in finished(random_weights, [1, 291], model.model_json_schema()):
            model.model_validate_json(text)
            validated += 1

    run()
    assert validated >= 10
