"""A PEFT adapter as llama.cpp's file, and a tuning as an adapter: both against the merged checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import edit_json, write_checkpoint
from test_merge import write_lora

from hanpaca.core.errors import BadInput, BadModelFile, ModelNotFound, UnsupportedFeature
from hanpaca.core.model import load
from hanpaca.core.vocabulary.pieces import train_pieces
from hanpaca.core.weights.convert import convert
from hanpaca.core.weights.lora_file import convert_adapter
from hanpaca.core.weights.low_rank import extract_lora
from hanpaca.core.weights.merge import merge
from hanpaca.core.weights.unpack import unpack
from hanpaca.integrations.cli import main

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
EXACT: dict[str, Any] = {"kv_type": "f32", "flash_attention": False, "threads": 1, "context": 128}
IDS = ([1, 305, 40, 77], [[290, 12, 99, 300, 17]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with a small tokenizer of its own."""
    folder = tmp_path_factory.mktemp("lora")
    text = ["the cat sat on the mat and looked at the moon", "羊驼在山上吃草，看着月亮"] * 20
    pieces = train_pieces(text, folder / "pieces.model", 320, coverage=1.0)
    return write_checkpoint(folder / "base", vocabulary=320, tokenizer_model=pieces)


def transformers_model(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype="auto")


def scores(path: Path, **options: Any) -> np.ndarray:
    with load(path, **EXACT, **options) as model:
        return np.array(model.engine.score(*IDS)[0])


@pytest.mark.parametrize(
    "config",
    [{}, {"alpha_pattern": {"q_proj": 4}, "rank_pattern": {"k_proj": 4}}, {"use_rslora": True}],
    ids=["plain", "patterns", "rslora"],
)
def test_an_adapter_file_is_as_good_as_the_merged_model(base: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    write_lora(tmp_path / "lora", transformers_model(base), **config)
    file = convert_adapter(tmp_path / "lora", tmp_path / "lora.gguf", "f32", base)
    plain = convert(base, tmp_path / "base.gguf", "f32")
    whole = convert(merge(base, [tmp_path / "lora"], tmp_path / "merged"), tmp_path / "merged.gguf", "f32")
    beside = scores(plain, loras=[file])
    np.testing.assert_allclose(beside, scores(whole), rtol=1e-4)
    assert np.abs(beside - scores(plain)).max() > 1e-2
    again = convert_adapter(tmp_path / "lora", tmp_path / "again.gguf", "f32", plain)
    assert again.read_bytes() == file.read_bytes()
    unpacked = transformers_model(unpack(plain, tmp_path / "unpacked", loras=[file])).state_dict()
    for name, wanted in transformers_model(tmp_path / "merged").state_dict().items():
        torch.testing.assert_close(unpacked[name], wanted, rtol=1e-5, atol=1e-6, msg=name)


def test_what_is_no_adapter_of_this_model_is_not_added(base: Path, tmp_path: Path) -> None:
    plain = convert(base, tmp_path / "base.gguf", "f32")
    for file in (tmp_path / "missing.gguf", plain):
        with pytest.raises(BadModelFile, match=f"{file.name} is no GGUF adapter"):
            unpack(plain, tmp_path / "m", loras=[file])
    assert not (tmp_path / "m").exists()


def test_the_folder_that_the_adapter_names_is_its_base(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", transformers_model(base))
    edit_json(tmp_path / "lora" / "adapter_config.json", base_model_name_or_path=str(base))
    assert convert_adapter(tmp_path / "lora", tmp_path / "a.gguf").stat().st_size > 1000
    edit_json(tmp_path / "lora" / "adapter_config.json", base_model_name_or_path="somebody/model")
    with pytest.raises(ModelNotFound, match="--base"):
        convert_adapter(tmp_path / "lora", tmp_path / "b.gguf")
    assert [path.name for path in tmp_path.glob("*.gguf")] == ["a.gguf"]


def test_what_an_adapter_file_cannot_hold_is_refused(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "full", transformers_model(base), modules_to_save=["lm_head"])
    with pytest.raises(UnsupportedFeature, match="hanpaca merge"):
        convert_adapter(tmp_path / "full", tmp_path / "a.gguf", base=base)
    write_lora(tmp_path / "rows", transformers_model(base), target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(UnsupportedFeature, match="embed_tokens"):
        convert_adapter(tmp_path / "rows", tmp_path / "a.gguf", base=base)
    write_lora(tmp_path / "lora", transformers_model(base))
    other = write_checkpoint(tmp_path / "other", vocabulary=320, hidden=128)
    with pytest.raises(BadInput, match="--base"):
        convert_adapter(tmp_path / "lora", tmp_path / "a.gguf", base=other)
    with pytest.raises(BadInput, match="q8_0"):
        convert_adapter(tmp_path / "lora", tmp_path / "a.gguf", "q4_0", base)


def test_a_tuning_of_low_rank_is_found_again(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", transformers_model(base))
    tuned = merge(base, [tmp_path / "lora"], tmp_path / "tuned")
    made = extract_lora(base, tuned, tmp_path / "found", rank=8)
    assert made.kept == pytest.approx(1.0, abs=1e-5) and made.left_out == ()
    again = transformers_model(merge(base, [made.path], tmp_path / "again")).state_dict()
    for name, wanted in transformers_model(tuned).state_dict().items():
        torch.testing.assert_close(again[name], wanted, rtol=0, atol=2e-6)
    own = peft.PeftModel.from_pretrained(transformers_model(base), made.path).merge_and_unload().state_dict()
    torch.testing.assert_close(own["model.layers.1.mlp.up_proj.weight"], again["model.layers.1.mlp.up_proj.weight"])


def test_what_the_rank_and_the_kind_leave_out_is_said(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = transformers_model(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.01
    model.save_pretrained(tmp_path / "tuned")
    narrow = extract_lora(base, tmp_path / "tuned", tmp_path / "narrow", rank=4)
    whole = extract_lora(base, tmp_path / "tuned", tmp_path / "whole", rank=100)
    before, after = transformers_model(base).state_dict(), model.state_dict()
    changes = [after[name] - before[name] for name in before if ".layers." in name and before[name].ndim == 2]
    shares = [torch.linalg.svdvals(change).square() for change in changes]  # the exact decomposition
    best = sum(float(share[:4].sum()) for share in shares) / sum(float(share.sum()) for share in shares)
    assert 0.97 * best < narrow.kept <= best * (1 + 1e-4)
    assert narrow.kept < 0.5 and whole.kept == pytest.approx(1.0, abs=1e-5)
    assert "lm_head.weight" in narrow.left_out and "model.norm.weight" in narrow.left_out
    assert main(["extract-lora", str(base), str(tmp_path / "tuned"), str(tmp_path / "said"), "--rank", "4"]) == 0
    assert "Not in the adapter" in capsys.readouterr().err
    assert main(["extract-lora", str(base), str(base), str(tmp_path / "none")]) == 2
    assert main(["convert", str(base), str(tmp_path / "x.gguf"), "--base", str(base)]) == 2
    assert main(["convert", str(tmp_path / "said"), str(tmp_path / "y.gguf"), "--base", str(base)]) == 0


def test_what_cannot_be_extracted_is_refused_before_the_work(base: Path, tmp_path: Path) -> None:
    model = transformers_model(base)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.inf
    model.save_pretrained(tmp_path / "tuned")
    with pytest.raises(BadModelFile, match=r"up_proj.*not finite"):
        extract_lora(base, tmp_path / "tuned", tmp_path / "new")
    with pytest.raises(BadInput, match="tuned exists already"):
        extract_lora(base, tmp_path / "none", tmp_path / "tuned")


def test_an_adapter_whose_first_pair_adds_nothing_is_converted(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", transformers_model(base))
    file = tmp_path / "lora" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 0}))
    made = convert_adapter(tmp_path / "lora", tmp_path / "lora.gguf", "f32", base)
    file = convert(base, tmp_path / "m.gguf", "f32")
    assert np.abs(scores(file, loras=[made]) - scores(file)).max() < 1e-3


def test_an_adapter_of_llama_cpp_is_refused_by_pytorch(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", transformers_model(base))
    file = convert_adapter(tmp_path / "lora", tmp_path / "lora.gguf", "f32", base)
    with (
        load(base, engine="transformers", loras=[file]) as model,
        pytest.raises(UnsupportedFeature, match=r"lora\.gguf is an adapter in llama\.cpp's form.*llama_cpp"),
    ):
        model.complete("the cat", max_tokens=1)
