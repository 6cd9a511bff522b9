"""llama.cpp shows no frequencies, so its logits are compared: with a float64 forward pass over ours."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from gguf_files import Shape, random_weights, write_gguf
from native_logits import distance, native

from hanpaca.core.errors import BadModelFile, UnsupportedFeature
from hanpaca.core.gguf_header import read, rope_of
from hanpaca.core.rope import Rope, RopePlan, llama3_factors, of_llama3_factors, plan

SHAPE = Shape(layers=2, hidden=64, ffn=96, heads=2, kv_heads=1)
DIM = SHAPE.hidden // SHAPE.heads
WINDOW = 256
"""Positions the tiny models below pretend to have been trained on; lengths are multiples of it."""
FACTORS = llama3_factors(Rope(500.0, DIM, WINDOW, "llama3", 8.0, 64))


def reference_logits(
    weights: dict[str, np.ndarray], tokens: np.ndarray, freq: np.ndarray, magnitude: float
) -> np.ndarray:
    """A LLaMA forward pass in float64 NumPy, as GGUF lays weights out (neighbouring pairs rotate)."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weights[name]

    angles = np.arange(len(tokens))[:, None] * freq[None, :]
    cos, sin = np.cos(angles) * magnitude, np.sin(angles) * magnitude

    def rotate(x: np.ndarray) -> np.ndarray:  # (heads, n, dim)
        even, odd = x[..., 0::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)

    def heads(x: np.ndarray, count: int) -> np.ndarray:
        return x.reshape(len(tokens), count, -1).transpose(1, 0, 2)

    x = weights["token_embd.weight"][tokens]
    mask = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
    for layer in range(SHAPE.layers):
        b = f"blk.{layer}."
        h = norm(x, b + "attn_norm.weight")
        q = rotate(heads(h @ weights[b + "attn_q.weight"].T, SHAPE.heads))
        k = rotate(heads(h @ weights[b + "attn_k.weight"].T, SHAPE.kv_heads))
        v = heads(h @ weights[b + "attn_v.weight"].T, SHAPE.kv_heads)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]) + mask
        share = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (share / share.sum(-1, keepdims=True)) @ v
        x = x + mixed.transpose(1, 0, 2).reshape(len(tokens), -1) @ weights[b + "attn_output.weight"].T
        h = norm(x, b + "ffn_norm.weight")
        gate = h @ weights[b + "ffn_gate.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ weights[b + "ffn_up.weight"].T)) @ weights[b + "ffn_down.weight"].T
    return norm(x, "output_norm.weight") @ weights["output.weight"].T


def tokens_of(length: int) -> np.ndarray:
    return np.random.default_rng(1).integers(3, 300, length)


def weights() -> dict[str, np.ndarray]:
    """What `write_gguf` puts into the tiny models, in float64."""
    return {name: array.astype(np.float64) for name, array in random_weights(SHAPE, 304, scale=1.0).items()}


def in_llama_cpp(model: Path, found: RopePlan, length: int) -> tuple[np.ndarray, np.ndarray]:
    """llama.cpp's logits, and a float64 forward pass with the plan's frequencies."""
    tokens = tokens_of(length)
    with native(model, length, **found.llama_cpp()) as llama_cpp:
        ours = np.concatenate(list(llama_cpp.chunks(tokens.tolist())))
    return ours, reference_logits(weights(), tokens, np.array(found.inv_freq()), found.magnitude)


@pytest.mark.parametrize(
    ("scaling", "factor", "windows", "extension"),
    [
        ("none", 1.0, 0.5, "ntk"),
        ("none", 1.0, 3, "ntk"),
        ("linear", 4.0, 4, "ntk"),
        ("linear", 4.0, 6, "ntk"),
        ("yarn", 16.0, 3, "ntk"),
        ("yarn", 2.0, 3, "ntk"),
        ("none", 1.0, 3, "yarn"),
        ("yarn", 2.0, 3, "yarn"),
    ],
)
def test_llama_cpp_uses_these_frequencies(tmp_path: Path, scaling, factor: float, windows: float, extension) -> None:
    length = int(WINDOW * windows)
    rope = Rope(dim=DIM, trained=WINDOW, original=WINDOW, scaling=scaling, factor=factor)
    model = write_gguf(
        tmp_path / "m.gguf",
        shape=SHAPE,
        context=rope.native_context,
        rope_scaling=None if scaling == "none" else (scaling, factor, WINDOW),
        scale=1.0,
    )
    found = plan(rope, length, extension=extension)
    ours, reference = in_llama_cpp(model, found, length)
    assert distance(ours, reference) < 1e-4
    wrong = np.array(plan(rope, 2 * length + WINDOW).inv_freq()) * 0.9
    other = reference_logits(weights(), tokens_of(length), wrong, 1.0)
    assert distance(ours, other) > 1e-2, "the comparison sees no difference"


def test_a_files_own_yarn_settings_are_used(tmp_path: Path) -> None:
    """llama.cpp reads a LLaMA file's ramp from our context parameters only, and its magnitude from the file."""
    scaling = {"attn_factor": 0.8, "yarn_beta_fast": 12.0, "yarn_beta_slow": 2.0}
    model = write_gguf(
        tmp_path / "m.gguf",
        shape=SHAPE,
        context=1024,
        rope_scaling=("yarn", 4.0, WINDOW),
        scale=1.0,
        metadata={f"llama.rope.scaling.{key}": value for key, value in scaling.items()},
    )
    rope = rope_of(read(model))
    assert (rope.beta_fast, rope.beta_slow, rope.attention) == (12.0, 2.0, pytest.approx(0.8))
    ours, reference = in_llama_cpp(model, plan(rope, 1024), 700)
    assert distance(ours, reference) < 1e-4
    usual = Rope(rope.base, rope.dim, WINDOW, "yarn", 4.0, WINDOW)
    assert distance(in_llama_cpp(model, plan(usual, 1024), 700)[0], reference) > 1e-3, "the ramp makes no difference"


def test_llama3s_table_is_recognised(tmp_path: Path) -> None:
    table = {"rope_freqs.weight": np.array(FACTORS, np.float32)}
    model = write_gguf(tmp_path / "m.gguf", shape=SHAPE, context=WINDOW, rope_base=500.0, scale=1.0, tensors=table)
    rope = rope_of(read(model))
    assert (rope.scaling, rope.factor, rope.original, rope.native_context) == ("llama3", 8.0, 64, WINDOW)
    assert distance(*in_llama_cpp(model, plan(rope, WINDOW), WINDOW)) < 1e-4


@pytest.mark.parametrize("factor", [8.0, 32.0])
@pytest.mark.parametrize("dim", [64, 128])
def test_the_settings_of_published_llama3_models_follow_from_their_tables(factor: float, dim: int) -> None:
    rope = Rope(500_000.0, dim, 131_072, "llama3", factor, 8192)
    assert of_llama3_factors(rope.base, rope.trained, np.array(llama3_factors(rope), np.float32).tolist()) == rope


def test_other_tables(tmp_path: Path) -> None:
    assert of_llama3_factors(1e4, 4096, [1.0] * 16) == Rope(1e4, 32, 4096)
    assert of_llama3_factors(1e4, 4096, [1.0, 2.0, 3.0, 2.5]).scaling == "file"
    table = {"rope_freqs.weight": np.array([2.0, 0.5, math.nan, *FACTORS[3:]], np.float32)}
    model = write_gguf(tmp_path / "m.gguf", shape=SHAPE, tensors=table)
    assert rope_of(read(model)).scaling == "file"
    both = write_gguf(tmp_path / "b.gguf", shape=SHAPE, rope_scaling=("yarn", 4.0, 64), context=256, tensors=table)
    with pytest.raises(UnsupportedFeature, match="two ways at once"):
        rope_of(read(both))
    negative = write_gguf(
        tmp_path / "n.gguf",
        shape=SHAPE,
        rope_scaling=("yarn", 4.0, 64),
        context=256,
        metadata={"llama.rope.scaling.attn_factor": -1.0},
    )
    with pytest.raises(BadModelFile, match="no rotary embedding"):
        rope_of(read(negative))
