import pytest

from hanpaca.core.errors import BadInput
from hanpaca.core.sampling import Sampling


def test_the_defaults_are_the_published_ones():
    s = Sampling()
    assert (s.temperature, s.top_k, s.top_p, s.repetition_penalty) == (0.2, 40, 0.9, 1.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1}, {"temperature": float("nan")}, {"temperature": "hot"}, {"temperature": True},
        {"top_p": 1.5}, {"top_k": -1}, {"top_k": 1.5}, {"max_tokens": 0}, {"max_tokens": 2.5}, {"seed": 2**32},
        {"repetition_penalty": 0}, {"logprobs": 21}, {"mirostat": 3}, {"stop": ("",)}, {"stop": (1,)},
        {"grammar": "root ::= a", "json_schema": {}}, {"logit_bias": {"a": 1}}, {"logit_bias": {1: float("nan")}},
        {"timeout": -1},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(settings):
    with pytest.raises(BadInput, match=next(iter(settings))):
        Sampling(**settings)


def test_an_unknown_name_is_refused_with_a_near_one_and_the_list():
    with pytest.raises(BadInput, match="Did you mean temperature") as error:
        Sampling().replace(temprature=1)
    assert "repetition_penalty" in error.value.hint


def test_one_stop_text_may_be_given_alone():
    assert Sampling.of({"stop": "end"}).stop == ("end",)
    assert Sampling.of({"stop": ["a", "b"]}).stop == ("a", "b")


def test_of_takes_settings_none_or_a_mapping():
    one = Sampling(seed=3)
    assert Sampling.of(one) is one
    assert Sampling.of(None) == Sampling()
    assert Sampling.of({"seed": 3}) == one
