"""The commands that make model files: convert, quantize, merge; what Ctrl+C leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from cli_runs import HANPACA, Run, checkpoint, gguf, refused, run
from gguf_files import Shape, write_gguf

from hanpaca.core.weights.quantize import TYPES

__all__ = ["checkpoint", "gguf", "run"]


def test_convert(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    ran = run("convert", checkpoint, "m.gguf", "--type", "q8_0")
    assert ran.code == 0, ran.err
    assert "m.gguf" in ran.out
    assert run("verify", "m.gguf").code == 0
    refused(run("convert", checkpoint, "x.gguf", "--type", "q9"), "f32", "q8_0")
    refused(run("convert", tmp_path, "x.gguf"), "no config.json")
    refused(run("convert", "nowhere", "x.gguf"), "nowhere")
    assert not (tmp_path / "x.gguf").exists()


def test_the_plan_of_every_type_without_weights(run: Run, checkpoint: Path, gguf: Path) -> None:
    rows = json.loads(run("quantize", "--plan", "chinese-alpaca-2-7b", "--json").out)["types"]
    assert [row["type"] for row in rows] == list(TYPES)
    sizes = {row["type"]: row["bytes"] for row in rows}
    assert sizes["Q6_K"] == pytest.approx(5_686_250_976, rel=1e-3)
    text = run("quantize", "--plan", "chinese-llama-2-13b", "q4_k", "F16").out
    assert text.splitlines()[1].split()[0] == "Q4_K_M"
    assert "24.69 GiB" in text
    small = run("quantize", "--plan", "smollm2")
    assert "\nQ4_K_M" in small.out and "\nQ1_0" not in small.out and "cannot make of this model: Q1_0" in small.err
    assert run("quantize", checkpoint, "--plan").code == run("quantize", "--plan", gguf, "q8_0").code == 0


def test_quantize_refuses_what_cannot_be(run: Run, gguf: Path, tmp_path: Path) -> None:
    refused(run("quantize", gguf), "--plan", "Q4_K_M")
    refused(run("quantize", gguf, "out.gguf", "Q4_K_N"), "Did you mean Q4_K_")
    refused(run("quantize", "none.gguf", "out.gguf", "q4_0"), "none.gguf")
    refused(run("quantize", gguf, gguf, "q4_0"), "output is the input")
    refused(run("quantize", "--plan", "chinese-alpca-2-7b"), "Near names")
    refused(run("quantize", "--plan", "./none.gguf"), "none.gguf")
    refused(run("quantize", gguf, "out.gguf", "IQ1_S"), "importance matrix")
    refused(run("quantize", "--plan", gguf, "--threads", "2"), "leave out --imatrix and --threads")
    assert not list(tmp_path.glob("*.gguf"))
    assert run("quantize", gguf, "out.gguf", "q4_k").code == 0


@pytest.fixture
def lora(checkpoint: Path, tmp_path: Path) -> Path:
    """One low-rank pair, as PEFT saves it."""
    import numpy as np
    from safetensors.numpy import save_file

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    rng, folder = np.random.default_rng(0), tmp_path / "lora"
    folder.mkdir()
    pair = {"A": rng.normal(size=(4, 256)), "B": rng.normal(size=(256, 4))}
    weights = {name.format(half): values.astype(np.float32) for half, values in pair.items()}
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.usefixtures("smollm2")
def test_an_adapter_becomes_a_file_by_folder_or_name_of_its_base(run: Run, checkpoint: Path, lora: Path) -> None:
    assert run("convert", lora, "lora.gguf", "--base", checkpoint).code == 0
    refused(run("convert", lora, "x.gguf", "--base", "smollm2"), "the base has [576, 576]")
    refused(run("convert", lora, "x.gguf", "--base", "smollm3"), "smollm2")
    refused(run("convert", lora, "x.gguf"), "--base")


def test_merge_asks_for_the_room_of_all_its_steps_first(
    run: Run, checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merged checkpoint alone would fit."""
    room = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors")) + (65 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda where: shutil._ntuple_diskusage(10**9, 10**9, room))
    refused(run("merge", checkpoint, lora, "merged", "--gguf", "f32"), "Not enough disk space")
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]


def test_merge_to_a_quantized_file_in_one_go(run: Run, checkpoint: Path, lora: Path, tmp_path: Path) -> None:
    ran = run("merge", checkpoint, lora, "merged", "--verify", "--gguf", "q4_k")
    assert ran.code == 0, ran.err
    assert "recomputed in float64" in ran.err
    assert run("verify", "merged").code == run("verify", "merged-Q4_K_M.gguf").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora", "merged", "merged-Q4_K_M.gguf"]
    same = run("merge", checkpoint, lora, "--out", "again", "--gguf", "Q8_0", "--json")
    assert json.loads(same.out)["path"] == "again-Q8_0.gguf"


def test_merge_refuses_before_it_works(run: Run, checkpoint: Path, lora: Path, tmp_path: Path) -> None:
    refused(run("merge", checkpoint, lora), "the new folder are needed")
    refused(run("merge", checkpoint, lora, "merged", "--gguf", "Q4_K_N"), "Did you mean Q4_K_")
    refused(run("merge", checkpoint, lora, "merged", "--gguf", "IQ2_XXS"), "importance matrix")
    refused(run("merge", checkpoint, checkpoint, "merged"), "no LoRA adapter")
    refused(run("merge", "nowhere", lora, "merged"), "nowhere")
    refused(run("merge", checkpoint, lora, lora), "lora")
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]


@pytest.mark.parametrize("words", [("quantize", "big.gguf", "out.gguf", "Q4_K_M"), ("convert", "big", "out.gguf")])
def test_ctrl_c_leaves_nothing(tmp_path: Path, data: Path, words: tuple[str, ...]) -> None:
    """The signal comes while the file is being written, as from a terminal: to the child as well."""
    model = data / "tokenizers/llama2-32000.tokenizer.model"
    write_checkpoint(tmp_path / "big", tokenizer_model=model, vocabulary=32_000, hidden=1024, ffn=4096, heads=8)
    write_gguf(tmp_path / "big.gguf", shape=Shape(layers=12, hidden=1024, ffn=4096, heads=8, kv_heads=8), half=True)
    with subprocess.Popen(
        [HANPACA, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as child:  # fmt: skip
        while child.poll() is None and not list(tmp_path.glob(".out*")):
            pass
        os.killpg(child.pid, signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert (child.returncode, errors) == (130, "hanpaca: stopped.\n")
    assert not list(tmp_path.glob("*out*")) + list(tmp_path.glob(".*out*"))
