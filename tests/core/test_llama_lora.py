"""LoRA adapters beside the weights in llama.cpp: as if merged, at any scale, and refused where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import Shape, byte_vocabulary, random_weights, write_gguf

from hanpaca.core.errors import BadModelFile, HanpacaError
from hanpaca.core.model import load

NAMES = ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "blk.1.attn_output.weight")
RANK, ALPHA = 4, 8.0
EXACT: dict[str, Any] = {"kv_type": "f32", "flash_attention": False, "threads": 1, "context": 256}
TEXT = ("the heart of it", " is in the thing")


def pairs(shape: Shape) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(7)
    weights = random_weights(shape, 304)
    return {
        name: (
            rng.standard_normal((RANK, weights[name].shape[1]), dtype=np.float32) * np.float32(0.2),
            rng.standard_normal((weights[name].shape[0], RANK), dtype=np.float32) * np.float32(0.2),
        )
        for name in NAMES
    }


def write_adapter(path: Path, shape: Shape) -> Path:
    """A GGUF adapter, as llama.cpp's convert_lora_to_gguf.py writes it."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for name, (a, b) in pairs(shape).items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(path: Path, scale: float) -> Path:
    weights = random_weights(Shape(), len(byte_vocabulary()[0]))
    change = {name: np.float32(scale * ALPHA / RANK) * (b @ a) for name, (a, b) in pairs(Shape()).items()}
    return write_gguf(path, tensors={name: weights[name] + delta for name, delta in change.items()})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("base") / "m.gguf")


def scores(path: Path, **options: Any) -> np.ndarray:
    with load(path, **EXACT, **options) as model:
        return np.array(model.score(*TEXT))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_an_adapter_beside_the_weights_equals_the_merged_model(base: Path, tmp_path: Path, scale: float) -> None:
    adapter = write_adapter(tmp_path / "lora.gguf", Shape())
    found = scores(base, loras=[(adapter, scale)])
    expected = scores(merged(tmp_path / "merged.gguf", scale))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(found - scores(base)).max() > 1e-2


def test_with_and_without_an_adapter_over_the_same_weights(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "lora.gguf", Shape())
    plain = scores(base)
    with load(base, **EXACT) as one, load(base, **EXACT, loras=[adapter]) as other:
        with_it = np.array(other.score(*TEXT))
        np.testing.assert_allclose(one.score(*TEXT), plain, rtol=1e-6)
        np.testing.assert_allclose(other.score(*TEXT), with_it, rtol=1e-6)
    assert np.abs(with_it - plain).max() > 1e-2


def test_what_does_not_fit_is_refused(base: Path, tmp_path: Path) -> None:
    wide = write_adapter(tmp_path / "wide.gguf", Shape(hidden=128))
    with pytest.raises(HanpacaError, match=r"wide\.gguf"):
        scores(base, loras=[wide])
    with pytest.raises(HanpacaError, match=r"none\.gguf"):
        scores(base, loras=[tmp_path / "none.gguf"])
    with pytest.raises(BadModelFile, match="is a LoRA adapter, not a model"):
        load(wide)
