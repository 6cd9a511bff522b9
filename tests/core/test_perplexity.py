from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from gguf_files import Shape, write_gguf
from native_logits import native

from hanpaca.core.errors import BadInput
from hanpaca.core.evaluation.long_context import Alpha, Point, curve, tail_perplexity
from hanpaca.core.evaluation.perplexity import _windows, exp_mean, perplexity
from hanpaca.core.model import Model, load

TEXT = "the 你好 thin thing a in the heart of it 助手 " * 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    path = write_gguf(tmp_path_factory.mktemp("m") / "m.gguf", shape=Shape(layers=1), context=256)
    with load(path, kv_type="f32", flash_attention=False) as model:
        yield model


def reference(model: Model, tokens: list[int]) -> list[float]:
    """Log-probabilities of all but the first token, straight from llama.cpp's logits."""
    assert model.source.path is not None
    with native(model.source.path, 256) as llama_cpp:
        logits = np.concatenate(list(llama_cpp.chunks(tokens))).astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    logged = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return [float(logged[i, token]) for i, token in enumerate(tokens[1:])]


def test_one_window_is_the_plain_definition(model: Model) -> None:
    tokens = model.engine.tokenize(TEXT)[:200]
    text = b"".join(map(model.engine.token_bytes, tokens)).decode("utf-8", "ignore").removeprefix(" ")
    tokens = model.engine.tokenize(text)
    found = perplexity(model, text, window=256)
    assert found.tokens == len(tokens)
    assert found.value == pytest.approx(exp_mean(reference(model, [1, *tokens])), rel=1e-4)


def test_windows_score_each_token_once_with_context() -> None:
    found = _windows(100, window=20, stride=5, skip=0)
    assert [token for _, first, end in found for token in range(first, end)] == list(range(100))
    assert found[0] == (0, 0, 20) and all(end - start == 20 for start, _, end in found)
    assert all(first - start >= 15 for start, first, _ in found[1:])


def test_a_figure_for_uniform_guessing() -> None:
    assert exp_mean([math.log(1 / 7)] * 5) == pytest.approx(7)


def test_refusals(model: Model) -> None:
    with pytest.raises(BadInput, match="at least two tokens"):
        perplexity(model, "")
    with pytest.raises(BadInput, match="less than the window of 16, not 16"):
        perplexity(model, TEXT, window=16, stride=16)
    with pytest.raises(BadInput, match="tokens; 9,999 are needed"):
        curve(model.source.path or Path(), TEXT, [(9999, "auto")])


def test_the_curve_scores_the_same_tokens(model: Model) -> None:
    assert model.source.path is not None
    tokens = model.engine.tokenize(TEXT * 4)[:600]
    seen: list[Point] = []
    wanted: list[tuple[int, Alpha]] = [(400, "auto"), (400, 1.0), (600, "auto"), (600, 1.0)]
    points = curve(model.source.path, TEXT * 4, wanted, tail=50, on_point=seen.append)
    assert [(p.length, p.alpha) for p in points] == [(256, 1.0), *wanted] and seen == points
    with load(model.source.path) as plain:
        assert points[0].perplexity == pytest.approx(tail_perplexity(plain, tokens, 256, 50), rel=1e-3)
    with load(model.source.path, context=600) as long:
        assert points[3].perplexity == pytest.approx(tail_perplexity(long, tokens, 600, 50), rel=1e-3)
    assert points[3].perplexity != points[4].perplexity
