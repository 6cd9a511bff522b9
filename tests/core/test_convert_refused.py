"""What conversion refuses, each by name, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import edit_json, write_checkpoint
from converted import copy, refused, small, tokenizer_model
from native_logits import distance
from training_runs import write_base

from hanpaca.core.errors import BadInput, BadModelFile, ModelNotFound, UnsupportedFeature
from hanpaca.core.weights.checkpoint import read_safetensors
from hanpaca.core.weights.convert import convert

__all__ = ["copy", "small", "tokenizer_model"]
torch = pytest.importorskip("torch")


def test_a_missing_shard_is_named(copy: Path, tmp_path: Path) -> None:
    (copy / "model-00002-of-00003.safetensors").unlink()
    refused(copy, tmp_path, BadModelFile, "model-00002-of-00003.safetensors")
    (copy / "model.safetensors.index.json").unlink()
    refused(copy, tmp_path, BadModelFile, "model-00002-of-00003.safetensors")


def test_a_truncated_shard_is_named(copy: Path, tmp_path: Path) -> None:
    shard = copy / "model-00001-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(copy, tmp_path, BadModelFile, "model-00001-of-00003.safetensors ends too early")


def test_a_missing_tensor_is_named(copy: Path, tmp_path: Path) -> None:
    edit_json(copy / "config.json", num_hidden_layers=3)
    refused(copy, tmp_path, BadModelFile, "lacks model.layers.2.input_layernorm.weight")


def test_another_shape_is_named(copy: Path, tmp_path: Path) -> None:
    edit_json(copy / "config.json", intermediate_size=256)
    refused(copy, tmp_path, BadModelFile, r"\[128, 64\]; config.json says \[256, 64\]")


def test_another_architecture_is_refused(copy: Path, tmp_path: Path) -> None:
    edit_json(copy / "config.json", model_type="gpt_neox")
    refused(copy, tmp_path, BadModelFile, "gpt_neox")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"num_hidden_layers": "2"}),
        ("config.json", {"num_attention_heads": {}}),
        ("config.json", {"vocab_size": None}),
        ("config.json", {"hidden_size": -1}),
        ("config.json", {"rms_norm_eps": []}),
        ("config.json", {"rope_parameters": {"rope_type": "yarn", "factor": -1}}),
        ("config.json", {"rope_parameters": {"rope_theta": {}}}),
        ("config.json", {"quantization_config": "x"}),
        ("model.safetensors.index.json", {"weight_map": {"a": 1}}),
        ("model.safetensors.index.json", {"weight_map": []}),
        ("tokenizer_config.json", {"added_tokens_decoder": 3}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": {}}}),
        ("special_tokens_map.json", {"added": 1, "bos_token": {"content": []}}),
    ],
)
def test_damaged_json_is_said_to_be(copy: Path, tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    """Values of the wrong kind, as a half-written or a hand-made file has them: never a bare TypeError."""
    from hanpaca.core.verify import verify

    edit_json(copy / name, **changes)
    if name != "special_tokens_map.json":  # which is looked up and left out where it makes no sense
        refused(copy, tmp_path, BadModelFile, r"damaged|config\.json|quantized")
    if "rms_norm_eps" not in changes:
        assert verify(copy, checksum=False).ok == (name == "special_tokens_map.json")


@pytest.mark.parametrize(
    "line",
    [{"dtype": "F32"}, {"dtype": 1, "shape": [2], "data_offsets": []}, [], {"dtype": "F32", "shape": 3,
     "data_offsets": [0, 4]}, {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}],
    ids=str,
)  # fmt: skip
def test_a_damaged_table_of_tensors_is_said_to_be(tmp_path: Path, line: Any) -> None:
    head = json.dumps({"x": line}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(64))
    with pytest.raises(BadModelFile, match="damaged"):
        read_safetensors(tmp_path / "m.safetensors")


def test_a_damaged_sentencepiece_model_is_said_to_be(copy: Path, tmp_path: Path) -> None:
    data = (copy / "tokenizer.model").read_bytes()
    piece = "的".encode()
    (copy / "tokenizer.model").write_bytes(data.replace(piece, b"\xff" + piece[1:]))
    refused(copy, tmp_path, BadModelFile, "tokenizer")


def test_another_activation_is_refused(copy: Path, tmp_path: Path) -> None:
    edit_json(copy / "config.json", hidden_act="gelu")
    refused(copy, tmp_path, UnsupportedFeature, "use gelu")


def test_a_quantized_checkpoint_is_refused(copy: Path, tmp_path: Path) -> None:
    edit_json(copy / "config.json", quantization_config={"quant_method": "awq"})
    refused(copy, tmp_path, BadModelFile, "awq")


def test_a_longer_tokenizer_is_refused(copy: Path, tmp_path: Path, data: Path) -> None:
    small = write_checkpoint(tmp_path / "s", vocabulary=32_000)
    shutil.copyfile(data / "tokenizers" / "chinese-llama2-55296.tokenizer.model", small / "tokenizer.model")
    refused(small, tmp_path, BadModelFile, "55296 tokens and the model 32000 rows")


def test_an_unknown_type_lists_the_known(copy: Path, tmp_path: Path) -> None:
    refused(copy, tmp_path, BadInput, "f32, f16, q8_0, bf16", type="q4_k")


def test_no_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path, ModelNotFound, "config.json")


def test_pickled_objects_are_not_loaded(copy: Path, tmp_path: Path) -> None:
    for file in copy.glob("model*"):
        file.unlink()
    torch.save([torch.zeros(2)], copy / "pytorch_model.bin")
    with pytest.raises(BadModelFile, match="no weights by name"):
        convert(copy, tmp_path / "x.gguf")
    torch.save({"model.norm.weight": Path("x")}, copy / "pytorch_model.bin")
    refused(copy, tmp_path, BadModelFile, "cannot be read")


def test_too_little_disk_is_said_before_writing(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda where: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    refused(copy, tmp_path, BadInput, "Not enough disk space")


def test_numbers_beyond_f16_are_refused(tmp_path: Path, tokenizer_model: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(tmp_path / "m", tokenizer_model=tokenizer_model)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][7, 7] = 1e6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(folder, tmp_path, BadInput, "beyond F16's range")
    weights["lm_head.weight"][7, 7] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(folder, tmp_path, BadModelFile, "not finite")


@pytest.mark.parametrize(("dtype", "type"), [("float32", "f32"), ("float16", "f16"), ("bfloat16", "bf16")])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_that_are_not_finite_are_refused_in_every_type(
    tmp_path: Path, dtype: str, type: str, value: str
) -> None:
    """Also where the numbers are only copied, and where they are encoded."""
    from safetensors.torch import load_file, save_file

    file = write_base(tmp_path / "b") / "model.safetensors"
    weights = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(file).items()}
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float(value)
    save_file(weights, file, {"format": "pt"})
    for into in (type, "q8_0", "f16"):
        refused(file.parent, tmp_path, BadModelFile, r"layers\.1\.mlp\.up_proj\.weight .* not finite", into)


def test_an_interrupted_conversion_leaves_nothing(copy: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(copy, tmp_path / "out" / "m.gguf", "f32", stop)
    assert not list((tmp_path / "out").iterdir())


def test_progress_ends_at_its_total(copy: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(copy, tmp_path / "m.gguf", "f16", lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_distance_is_relative() -> None:
    assert distance(np.array([1.0, 10.0]), np.array([2.0, 10.0])) == pytest.approx(0.1)


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="no ordinary file"):
        convert(folder, tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
