"""What merging refuses, each by name, and that nothing is left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoints import edit_json, write_checkpoint
from test_merge import base, chinese, llama2, load, load_file, pytestmark, save_file, write_lora

from hanpaca.core.errors import BadInput, BadModelFile, ModelNotFound, UnsupportedFeature
from hanpaca.core.weights.merge import merge

__all__ = ["base", "chinese", "llama2", "pytestmark"]
torch = pytest.importorskip("torch")


def refused(base: Path, loras: list[Path], tmp_path: Path, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        merge(base, loras, tmp_path / "refused" / "out")
    assert not list((tmp_path / "refused").glob("*"))


@pytest.mark.parametrize("rows", [49_953, 49_954])
def test_generations_are_not_mixed(llama2: Path, tmp_path: Path, rows: int) -> None:
    write_lora(tmp_path / "lora", load(llama2), rows=rows, modules_to_save=["embed_tokens", "lm_head"])
    refused(llama2, [tmp_path / "lora"], tmp_path, BadInput, "must not be mixed")


@pytest.mark.parametrize("rows", [49_953, 49_954])
def test_generations_are_not_mixed_beside_the_weights_either(chinese: Path, tmp_path: Path, rows: int) -> None:
    """A first-generation adapter on a second-generation base, in the engine that loads adapters without merging."""
    from hanpaca.core.engines.torch_model import load as load_engine

    base = write_checkpoint(tmp_path / "base", tokenizer_model=chinese, hidden=32, heads=2, layers=1)
    write_lora(tmp_path / "lora", load(base), rows=rows, modules_to_save=["embed_tokens", "lm_head"])
    refused(base, [tmp_path / "lora"], tmp_path, BadInput, "must not be mixed")
    with pytest.raises(BadInput, match="must not be mixed"):
        load_engine(base, device="cpu", dtype="float32", quantization=None, loras=[tmp_path / "lora"])


def test_the_wrong_tokenizer_is_refused(llama2: Path, tmp_path: Path, data: Path, chinese: Path) -> None:
    saved = ["embed_tokens", "lm_head"]
    write_lora(tmp_path / "lora", load(llama2), rows=55_296, modules_to_save=saved)
    refused(llama2, [tmp_path / "lora"], tmp_path, BadInput, "55296 and no tokenizer; the base's has 32000")
    shutil.copyfile(data / "tokenizers" / "llama2-32000.tokenizer.model", tmp_path / "lora" / "tokenizer.model")
    refused(llama2, [tmp_path / "lora"], tmp_path, BadInput, "wrong tokenizer")


def test_the_chat_adapter_alone_is_refused(llama2: Path, chinese: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", load(llama2), tokenizer=chinese)
    refused(llama2, [tmp_path / "lora"], tmp_path, BadInput, "vocabulary of 55296; the model has 32000")


def test_a_smaller_vocabulary_is_refused(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", load(base), rows=300, modules_to_save=["embed_tokens", "lm_head"])
    refused(base, [tmp_path / "lora"], tmp_path, BadInput, "vocabulary of 300 and the model one of 320")


def test_half_a_larger_vocabulary_is_refused(base: Path, tmp_path: Path, data: Path) -> None:
    small = data / "tokenizers" / "llama2-32000.tokenizer.model"
    write_lora(tmp_path / "lora", load(base), rows=32_000, tokenizer=small, modules_to_save=["embed_tokens"])
    file = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "lm_head" not in name}, file)
    refused(base, [tmp_path / "lora"], tmp_path, BadInput, "embedding gets 32000 rows and the head keeps 320")


def test_an_adapter_of_another_size_is_refused(base: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", vocabulary=320, hidden=128)
    write_lora(tmp_path / "lora", load(other))
    refused(base, [tmp_path / "lora"], tmp_path, BadInput, r"\[128, 128\], and the base has it as \[64, 128\]")


def test_what_is_no_plain_lora_is_refused(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "dora", load(base), use_dora=True)
    refused(base, [tmp_path / "dora"], tmp_path, UnsupportedFeature, "DoRA")
    write_lora(tmp_path / "lora", load(base))
    edit_json(tmp_path / "lora" / "adapter_config.json", use_dora=False)
    shutil.copyfile(tmp_path / "dora" / "adapter_model.safetensors", tmp_path / "lora" / "adapter_model.safetensors")
    refused(base, [tmp_path / "lora"], tmp_path, UnsupportedFeature, "lora_magnitude_vector")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"init_lora_weights": "pissa"}, "begun as 'pissa', which also changed the base"),
        ({"init_lora_weights": "pissa_niter_4"}, "begun as 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "begun as 'olora'"),
        ({"alora_invocation_tokens": [5, 6]}, "no plain LoRA \\(aLoRA\\)"),
    ],
    ids=["pissa", "fast-pissa", "olora", "alora"],
)
def test_what_does_not_only_add_to_the_base_is_refused(
    base: Path, tmp_path: Path, config: dict[str, Any], match: str
) -> None:
    write_lora(tmp_path / "lora", load(base))
    edit_json(tmp_path / "lora" / "adapter_config.json", **config)
    refused(base, [tmp_path / "lora"], tmp_path, UnsupportedFeature, match)


def test_a_damaged_adapter_is_said_to_be(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", load(base))
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    for changes in ({"lora_alpha": "x"}, {"r": None, "lora_alpha": None}, {"rank_pattern": [1]}):
        (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config | changes))
        refused(base, [tmp_path / "lora"], tmp_path, BadModelFile, "lora is damaged")


def test_halves_of_two_ranks_are_refused(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", load(base))
    file = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({n: t[:3].clone() if "up_proj.lora_A" in n else t for n, t in load_file(file).items()}, file)
    refused(base, [tmp_path / "lora"], tmp_path, BadModelFile, r"up_proj differ in rank")


def test_numbers_that_are_not_finite_are_refused(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", load(base))
    file, config = tmp_path / "lora" / "adapter_model.safetensors", tmp_path / "lora" / "adapter_config.json"
    edit_json(config, lora_alpha=float("nan"))
    refused(base, [tmp_path / "lora"], tmp_path, BadModelFile, r"lora is damaged: .*_proj is scaled by nan")
    edit_json(config, lora_alpha=32)
    tensors = load_file(file)
    next(tensor for name, tensor in tensors.items() if "up_proj.lora_A" in name)[1, 2] = float("nan")
    save_file(tensors, file)
    refused(base, [tmp_path / "lora"], tmp_path, BadModelFile, r"up_proj\.weight holds numbers that are not finite")
    write_lora(tmp_path / "other", load(base), target_modules=["q_proj"])
    copy = shutil.copytree(base, tmp_path / "copy")
    shard = next(file for file in copy.glob("*.safetensors") if "model.norm.weight" in load_file(file))
    save_file(load_file(shard) | {"model.norm.weight": torch.full((64,), float("inf"))}, shard, {"format": "pt"})
    refused(
        copy, [tmp_path / "other"], tmp_path, BadModelFile, r"model\.norm\.weight holds numbers that are not finite"
    )


def test_missing_files_are_named(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", load(base))
    refused(base, [], tmp_path, BadInput, "No LoRA adapter")
    refused(base, [tmp_path], tmp_path, ModelNotFound, r"adapter_config\.json")
    copy = shutil.copytree(base, tmp_path / "copy")
    shard = sorted(copy.glob("*.safetensors"))[1]
    shard.unlink()
    refused(copy, [tmp_path / "lora"], tmp_path, BadModelFile, shard.name)
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    refused(base, [tmp_path / "lora"], tmp_path, ModelNotFound, "no weights")


def test_too_little_disk_is_said_before_writing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lora(tmp_path / "lora", load(base))
    monkeypatch.setattr(shutil, "disk_usage", lambda where: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    refused(base, [tmp_path / "lora"], tmp_path, BadInput, "Not enough disk space")


def test_an_existing_folder_is_kept(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lora(tmp_path / "lora", load(base))
    for name in ("here", "empty"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(BadInput, match="the folder that this command runs in"):
        merge(base, [tmp_path / "lora"], Path())
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    merge(base, [tmp_path / "lora"], tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "config.json").is_file()
    with pytest.raises(BadInput, match="exists already"):
        merge(base, [tmp_path / "lora"], tmp_path / "lora")
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
