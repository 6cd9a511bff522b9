"""Guessing ahead: what is guessed, and that on real weights no answer differs, only the number of passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from llama_engines import GREEDY, generate, open_engine, random_prompts

from hanpaca.core.engines.llama_context import NativeContext
from hanpaca.core.engines.lookup import Lookup
from hanpaca.core.errors import BadInput
from hanpaca.core.sampling import Sampling

SETTINGS = [
    GREEDY.replace(max_tokens=48),
    Sampling(max_tokens=48, seed=3),
    Sampling(max_tokens=48, seed=4, temperature=1.5, mirostat=2),
    GREEDY.replace(max_tokens=48, logprobs=2),
    GREEDY.replace(max_tokens=48, grammar='root ::= ("ab" | "ba")+ "."'),
]


def test_what_followed_the_last_four_tokens_the_last_time_is_guessed():
    lookup = Lookup(4)
    text = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 6, 7, 8, 9, 0, 1, 2, 3]
    assert lookup.guess(text, 16) == [6, 7, 8, 9]
    assert lookup.guess(text, 2) == [6, 7]
    assert lookup.guess([*text, 6, 7, 8], 16) == [9, 0, 1, 2]
    assert lookup.guess([*text, 6, 7, 8, 8], 16) == []


def test_what_goes_in_circles_is_guessed_beyond_its_end():
    assert Lookup(5).guess([9, 1, 2, 1, 2, 1, 2, 1], 16) == [2, 1, 2, 1, 2]
    assert Lookup(5).guess([7, 7, 7, 7, 7], 16) == [7] * 5


@pytest.mark.parametrize("tokens", [[], [1], [1, 2, 3, 4], [5, 6, 7, 8, 9]])
def test_a_beginning_has_no_guesses(tokens):
    assert Lookup(3).guess(tokens, 8) == []


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Rows of each forward pass."""
    seen: list[int] = []
    real = NativeContext.decode

    def decode(self: NativeContext, tokens: Any, *rest: Any) -> None:
        seen.append(len(tokens))
        real(self, tokens, *rest)

    monkeypatch.setattr(NativeContext, "decode", decode)
    return seen


@pytest.mark.parametrize("sampling", SETTINGS, ids=["greedy", "drawn", "mirostat", "logprobs", "grammar"])
def test_answers_are_the_same_with_and_without(tiny_file: Path, passes: list[int], sampling: Sampling):
    prompts = [prompt * 3 for prompt in random_prompts(6, longest=40)]
    said, sure, took = [], [], []
    for most in (0, 4):
        engine = open_engine(tiny_file, kv_type="f32", flash_attention=False, threads=1, prompt_lookup=most)
        passes.clear()
        alone = [generate(engine, prompt, sampling=sampling)[0] for prompt in prompts[:3]]
        together = generate(engine, *prompts, sampling=sampling)
        said.append([(c.text, c.finish_reason, c.usage.completion_tokens) for c in [*alone, *together]])
        sure.append([told.logprob for c in [*alone, *together] for told in c.logprobs or ()])
        took.append(len(passes))
        engine.close()
    assert said[0] == said[1]
    assert sure[0] == pytest.approx(sure[1], abs=1e-4) and bool(sure[0]) == (sampling.logprobs is not None)
    if sampling.temperature == 0 and not sampling.grammar:  # random weights repeat themselves then
        assert took[1] < took[0] * 0.8


def test_a_model_that_repeats_its_prompt_takes_fewer_passes(smollm2: Path, passes: list[int]):
    took = {}
    for most in (0, 3):
        engine = open_engine(smollm2, context=1024, prompt_lookup=most)
        passes.clear()
        lines = "The quick brown fox jumps over the lazy dog near the river.\n" * 3
        (answer,) = generate(engine, engine.tokenize(lines), sampling=GREEDY.replace(max_tokens=60))
        took[most] = len(passes) / answer.usage.completion_tokens
        engine.close()
    assert took[3] < took[0] * 0.7


@pytest.mark.parametrize("most", [-1, 17, 2.5, True])
def test_a_senseless_number_is_refused(tiny_file: Path, most: Any):
    with pytest.raises(BadInput, match="prompt_lookup must be a whole number from 0 to 16"):
        open_engine(tiny_file, prompt_lookup=most)
