"""Grammars and JSON schemas in the llama.cpp engine: enforced, or refused before anything runs."""

import json
import math

import pytest
from llama_engines import GREEDY, ask, generate

from hanpaca.core.errors import BadInput, UnsupportedFeature
from hanpaca.core.sampling import Sampling


def test_a_json_schema_is_enforced(long_smol):

    schema = {
        "type": "object",
        "properties": {"城市": {"enum": ["北京", "巴黎"]}, "n": {"type": "integer"}, "on": {"type": "boolean"}},
        "required": ["城市", "n", "on"],
        "additionalProperties": False,
    }
    for temperature in (0, 1.5):
        sampling = Sampling(max_tokens=80, temperature=temperature, seed=5, json_schema=schema)
        (answer,) = generate(long_smol, ask(long_smol), sampling=sampling)
        value = json.loads(answer.text)
        assert value.keys() == {"城市", "n", "on"} and value["城市"] in ("北京", "巴黎")
        assert "\\u" not in answer.text
        assert answer.finish_reason == "stop"


def test_a_gbnf_grammar_is_enforced(long_smol):
    (answer,) = generate(long_smol, ask(long_smol), sampling=GREEDY.replace(grammar='root ::= ("yes" | "no") "!"'))
    assert answer.text in ("yes!", "no!")


def test_a_broken_grammar_is_refused_before_anything_runs(long_smol):
    with pytest.raises(BadInput, match="grammar"):
        generate(long_smol, ask(long_smol), sampling=GREEDY.replace(grammar="root ::= ("))


@pytest.mark.parametrize("grammar", ["", "  ", "root ::= " + "(" * 100_000, "root ::= a\n" + "a ::= b\n" * 6000])
def test_grammars_that_native_code_would_die_of_are_refused(tiny, grammar):
    with pytest.raises(BadInput, match="grammar"):
        generate(tiny, [1, 270], sampling=GREEDY.replace(grammar=grammar))


def test_a_grammar_that_leaves_no_token_says_so(tiny):
    blocked = {token: -math.inf for token in range(tiny.vocabulary.size) if tiny.token_bytes(token) in (b"a", b" a")}
    sampling = GREEDY.replace(grammar='root ::= "a"', logit_bias=blocked)
    with pytest.raises(UnsupportedFeature, match="leave no token"):
        generate(tiny, [1, 270], sampling=sampling)
