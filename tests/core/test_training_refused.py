"""What training refuses: models that lack weights or are no models, options that fit no layer or do nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_runs import QUIET, base, load, rows, tuning, write_text

from hanpaca.core.errors import BadInput, BadModelFile
from hanpaca.core.training.evaluation import HeldOut, foresee
from hanpaca.core.training.options import PretrainOptions, as_json
from hanpaca.core.training.records import last_checkpoint
from hanpaca.core.training.run import prepare, train
from hanpaca.core.training.trainer import save_weights
from hanpaca.integrations.cli import main

__all__ = ["base", "rows"]

pytest.importorskip("torch")
pytest.importorskip("peft")
pytestmark = QUIET


def altered(base: Path, folder: Path, **config: Any) -> Path:
    """A copy of the base whose config.json says something else."""
    shutil.copytree(base, folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(settings | config), encoding="utf-8")
    return folder


# -- models --------------------------------------------------------------------------------------------------------


def test_a_model_that_lacks_weights_is_not_filled_up_with_random_ones(base: Path, rows: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    lacking = altered(base, tmp_path / "lacking")
    weights = load_file(lacking / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, lacking / "model.safetensors")
    with pytest.raises(BadModelFile, match=r"lacks model\.layers\.0\.mlp\.up_proj"):
        prepare(tuning(lacking, rows, tmp_path / "run"))
    more = altered(base, tmp_path / "more", num_hidden_layers=3)
    with pytest.raises(BadModelFile, match=r"lacks model\.layers\.2"):
        prepare(tuning(more, rows, tmp_path / "run"))


def test_a_run_does_not_begin_on_what_another_gguf_was_unpacked_to(base: Path, rows: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from hanpaca.core.weights.convert import convert

    first = convert(base, tmp_path / "first.gguf", "f32")
    other = altered(base, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in weights.items()}, other / "model.safetensors")
    second = convert(other, tmp_path / "second.gguf", "f32")
    prepare(tuning(first, rows, tmp_path / "run"))
    prepare(tuning(first.rename(tmp_path / "renamed.gguf"), rows, tmp_path / "run"))
    with pytest.raises(BadInput, match=r"unpacked from another model than second\.gguf"):
        prepare(tuning(second, rows, tmp_path / "run"))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"max_position_embeddings": None}, "config.json is damaged"),
        ({"num_attention_heads": 3}, "belong to different models"),
        ({"rms_norm_eps": "a"}, "transformers cannot load .*rms_norm_eps"),
        ({"rope_parameters": {"rope_type": "weird", "rope_theta": 1e4}}, "transformers cannot load .*weird"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_config_that_cannot_be(base: Path, rows: Path, tmp_path: Path, config: dict[str, Any], match: str) -> None:
    from hanpaca.core.training.base import load_model

    options = tuning(altered(base, tmp_path / "model", **config), rows, tmp_path / "run")
    with pytest.raises(BadModelFile, match=match):
        load_model(prepare(options).base, options)


def test_a_template_that_is_no_utf8(base: Path, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_bytes("你好".encode("gb18030"))
    with pytest.raises(BadInput, match=r"t\.jinja is no UTF-8 text"):
        prepare(tuning(base, rows, tmp_path / "run", template=str(tmp_path / "t.jinja")))


# -- layers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tied", "layers", "match"),
    [
        (False, {"targets": ("q_proj", "k_prj")}, "--targets 'k_prj' is no layer of this model.*Valid: embed_tokens"),
        (False, {"also": ("embed_tokens", "lm_hed")}, "--also 'lm_hed' is no layer"),
        (False, {"targets": ("q_proj", "lm_head")}, "the same layer: lm_head"),
        (True, {"targets": ("q_proj", "lm_head"), "also": ("embed_tokens",)}, "the same layer: model.embed_tokens"),
    ],
    ids=["targets", "also", "both", "both, tied"],
)
def test_layers_that_are_none_or_named_twice(
    base: Path, rows: Path, tmp_path: Path, tied: bool, layers: dict[str, Any], match: str
) -> None:
    start = altered(base, tmp_path / "model", tie_word_embeddings=tied)
    with pytest.raises(BadInput, match=match):
        prepare(tuning(start, rows, tmp_path / "run", **layers))


def test_a_layer_may_be_named_by_its_path(base: Path, rows: Path, tmp_path: Path) -> None:
    from hanpaca.core.training.base import load_model
    from hanpaca.core.training.estimate import estimate

    options = tuning(base, rows, tmp_path / "run", targets=("layers.0.self_attn.q_proj", "down_proj"), also=())
    ready = prepare(options)
    trained = sum(p.numel() for p in load_model(ready.base, options).parameters() if p.requires_grad)
    assert estimate(ready).trained == trained


# -- options and disks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words", "match"),
    [
        ("prefer", ["--prompt-weight", "0.5"], "--prompt-weight does nothing here"),
        ("finetune", ["--method", "full", "--also", "--rank", "8"], "--rank, --also: only for LoRA"),
        ("finetune", ["--plan", "--preview", "1"], "--preview goes with neither --plan nor --json"),
        ("finetune", ["--preview", "-57"], "at least 1 example"),
    ],
    ids=["prompt weight", "LoRA", "both", "negative"],
)
def test_options_that_would_do_nothing(
    base: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, words: list[str], match: str
) -> None:
    assert main([kind, str(base), str(rows), "--out", str(tmp_path / "run"), "--template", "llama-2", *words]) == 2
    assert match in capsys.readouterr().err


def test_a_run_of_lora_is_done_again_with_every_weight(base: Path, rows: Path, tmp_path: Path) -> None:
    """The file of a run says all options; those of LoRA were not asked for by who names another method."""
    (tmp_path / "run.json").write_text(as_json(tuning(base, rows, tmp_path / "run")), encoding="utf-8")
    again = ["finetune", "--run", str(tmp_path / "run.json"), "--method", "full", "--plan"]
    assert main(again) == 0
    assert main([*again, "--rank", "8"]) == 2


def test_a_rate_below_the_end_of_its_schedule(base: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="falls to 1e-07"):
        tuning(base, rows, tmp_path / "run", schedule="polynomial", learning_rate=1e-8)


def test_a_disk_without_room_for_the_checkpoints(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full tuning of the tiny model writes 47,300 numbers and 94,600 of AdamW's: three checkpoints are 1.6 MiB."""
    options = tuning(base, rows, tmp_path / "run", method="full", steps=9, save_every=2, keep=2)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_500_000))
    with pytest.raises(BadInput, match="Not enough disk space"):
        train(options)
    assert not (tmp_path / "run" / "run.json").exists()


# -- runs that diverge ---------------------------------------------------------------------------------------------


def test_a_run_that_diverges_stops_and_writes_no_model(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = PretrainOptions(
        base=str(base), data=(str(write_text(tmp_path / "t.txt", 60)),), out=str(out), method="full", length=64,
        batch=256, accumulate=1, learning_rate=1.0, weight_decay=10.0, clip=0.0, schedule="constant", steps=80,
        epochs=99, save_every=5, threads=1, dtype="float32",
    )  # fmt: skip
    with pytest.raises(BadInput, match=r"diverged.*smaller --learning-rate"):
        train(options)
    assert not (out / "done.json").exists() and not (out / "model.safetensors").exists()
    assert last_checkpoint(out / "checkpoints") is not None
    assert "NaN" not in (out / "log.jsonl").read_text(encoding="utf-8")


def test_weights_that_are_no_numbers_are_not_saved(base: Path, tmp_path: Path) -> None:
    model = load(base)
    model.lm_head.weight.data[3, 5] = float("nan")
    with pytest.raises(BadInput, match=r"lm_head\.weight holds what is no number"):
        save_weights(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_held_out_text_that_is_foreseen_by_no_means_ends_the_run(base: Path) -> None:
    model = load(base)
    model.lm_head.weight.data *= 1e6
    with pytest.raises(BadInput, match=r"The loss on t is .*diverged"):
        foresee(model, HeldOut("t", tuple(range(5, 60)), 100), 1, 64, 256)
