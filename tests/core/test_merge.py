"""Merging against PEFT's own `merge_and_unload`, and the pairs that do not belong together."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from checkpoints import to_bin, write_checkpoint, write_tokenizer

from hanpaca.core.errors import EngineFailure
from hanpaca.core.weights import merge as merging
from hanpaca.core.weights.convert import convert
from hanpaca.core.weights.merge import merge

torch = pytest.importorskip("torch")
load_file, save_file = (getattr(pytest.importorskip("safetensors.torch"), name) for name in ("load_file", "save_file"))
peft = pytest.importorskip("peft")

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
pytestmark = [  # PEFT's own: about transformers' names, and about saving grown embeddings
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def load(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype="auto")


def write_lora(
    folder: Path, base: Any, *, rows: int | None = None, tokenizer: Path | None = None, **config: Any
) -> Any:
    """A PEFT adapter with random numbers on `base`, saved to `folder`; gives what PEFT itself merges."""
    if rows is not None:
        base.resize_token_embeddings(rows, mean_resizing=False)
    settings = {"r": 8, "lora_alpha": 32, "target_modules": LINEAR, "task_type": "CAUSAL_LM", **config}
    model = peft.get_peft_model(base, peft.LoraConfig(**settings))
    torch.manual_seed(len(str(folder)))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) * 0.05
    model.save_pretrained(folder)
    if tokenizer is not None:
        write_tokenizer(folder, tokenizer, pad=True)
    return model.merge_and_unload()


def assert_same(folder: Path, expected: Any, bound: float = 1e-6) -> None:
    found, wanted = load(folder).state_dict(), expected.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert (found[name] - tensor).abs().max().item() <= bound, name


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in several shards with a small vocabulary."""
    return write_checkpoint(tmp_path_factory.mktemp("base") / "base", vocabulary=320, shard="100KB")


@pytest.fixture(scope="module")
def llama2(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A base with Llama-2's vocabulary and tokenizer."""
    model = data / "tokenizers" / "llama2-32000.tokenizer.model"
    return write_checkpoint(
        tmp_path_factory.mktemp("llama2") / "base",
        tokenizer_model=model,
        vocabulary=32_000,
        hidden=32,
        heads=2,
        shard="3MB",
    )


@pytest.fixture(scope="module")
def chinese(data: Path) -> Path:
    return data / "tokenizers" / "chinese-llama2-55296.tokenizer.model"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 4, r"layers\.1\.mlp\.up_proj": 2}, "alpha_pattern": {"k_proj": 3}},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    ],
    ids=["plain", "rslora", "patterns", "embedding", "saved"],
)
def test_equals_pefts_own_merge(base: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    expected = write_lora(tmp_path / "lora", load(base), **config)
    out = merge(base, [tmp_path / "lora"], tmp_path / "out", verify=True)
    assert_same(out, expected)
    assert len(list(out.glob("*.safetensors"))) == len(list(base.glob("*.safetensors"))) > 1


def test_a_larger_vocabulary_and_several_adapters(llama2: Path, chinese: Path, tmp_path: Path) -> None:
    """As published: the base's adapter brings 55,296 rows, the chat adapter comes on top of the merged result."""
    saved = ["embed_tokens", "lm_head"]
    first = write_lora(tmp_path / "one", load(llama2), rows=55_296, tokenizer=chinese, modules_to_save=saved)
    expected = write_lora(tmp_path / "two", first, tokenizer=chinese, modules_to_save=saved)
    out = merge(llama2, [tmp_path / "one", tmp_path / "two"], tmp_path / "out", verify=True)
    assert_same(out, expected)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 55_296
    assert (out / "tokenizer.model").read_bytes() == chinese.read_bytes()
    assert convert(out, tmp_path / "out.gguf").stat().st_size > 0


def test_pytorch_files_and_half_precision(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "base", vocabulary=320, dtype="bfloat16", shard="100KB")
    reference = load(folder).float()
    expected = write_lora(tmp_path / "lora", reference)
    to_bin(folder)
    torch.save(load_file(tmp_path / "lora" / "adapter_model.safetensors"), tmp_path / "lora" / "adapter_model.bin")
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    out = merge(folder, [tmp_path / "lora"], tmp_path / "out", verify=True)
    merged, wanted = load(out).state_dict(), expected.to(torch.bfloat16).state_dict()
    for name, tensor in wanted.items():  # sums that differ in the last bit of F32 may round to neighbours
        torch.testing.assert_close(merged[name], tensor, rtol=2**-7, atol=1e-6)
        assert (merged[name] == tensor).float().mean() > 0.99, name


@pytest.mark.parametrize("modules", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]], ids="+".join)
def test_a_tied_base_is_untied_where_the_adapter_trains_one_side(tmp_path: Path, modules: list[str]) -> None:
    base = write_checkpoint(tmp_path / "base", vocabulary=320, tied=True)
    model = load(base)
    tokens = torch.arange(3, 40)[None]
    lora = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=modules))
    for parameter in lora.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + torch.randn_like(parameter) * 0.05
    lora.save_pretrained(tmp_path / "lora")
    with torch.inference_mode():
        expected = lora(tokens).logits
    notes: list[str] = []
    out = merge(base, [tmp_path / "lora"], tmp_path / "out", on_note=notes.append)
    with torch.inference_mode():
        found = load(out)(tokens).logits
    assert (found - expected).abs().max() <= 1e-5
    assert "unties" in notes[0]


@pytest.mark.parametrize("start", ["gaussian", "orthogonal", "mica"])
def test_beginnings_that_leave_the_base_alone_are_merged(base: Path, tmp_path: Path, start: str) -> None:
    expected = write_lora(tmp_path / "lora", load(base), init_lora_weights=start)
    assert_same(merge(base, [tmp_path / "lora"], tmp_path / "out"), expected)


def test_names_of_older_pefts_are_read(base: Path, tmp_path: Path) -> None:
    expected = write_lora(tmp_path / "lora", load(base), modules_to_save=["embed_tokens"])
    file = tmp_path / "lora" / "adapter_model.safetensors"
    older = {
        name.replace("embed_tokens.weight", "embed_tokens.modules_to_save.weight").replace(
            "lora_A.weight", "lora_A.default.weight"
        ): tensor
        for name, tensor in load_file(file).items()
    }
    older["base_model.model.model.embed_tokens.original_module.weight"] = torch.zeros(320, 64)
    save_file(older, file)
    assert_same(merge(base, [tmp_path / "lora"], tmp_path / "out"), expected)


def test_memory_stays_small(tmp_path: Path) -> None:
    """Two shards of 60 MB in F32 and an adapter: well under the two largest shards."""
    base = write_checkpoint(
        tmp_path / "base", vocabulary=16_000, hidden=1024, ffn=2048, layers=4, heads=8, shard="60MB"
    )
    write_lora(tmp_path / "lora", load(base))
    code = (
        "import psutil, re, sys; from pathlib import Path; from hanpaca.core.weights.merge import merge\n"
        "idle = psutil.Process().memory_info().rss\n"
        "merge(Path(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]), verify=True)\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]\n"
        "print(int(peak) * 1024 - idle)"
    )
    command = [sys.executable, "-c", code, base, tmp_path / "lora", tmp_path / "out"]
    used = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    shards = sorted(file.stat().st_size for file in base.glob("*.safetensors"))
    assert len(shards) >= 3
    assert used < shards[-1] + shards[-2]


# -- interruptions -----------------------------------------------------------------------------------------------


def test_an_interrupted_merge_leaves_nothing(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", load(base))

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(base, [tmp_path / "lora"], tmp_path / "work" / "out", on_progress=stop)
    assert not list((tmp_path / "work").iterdir())


def test_a_killed_merge_leaves_nothing_that_looks_complete(base: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", load(base))
    code = (
        "import sys, time; from pathlib import Path; from hanpaca.core.weights.merge import merge\n"
        "merge(Path(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]),\n"
        "      on_progress=lambda done, total: done > total / 2 and (print('half', flush=True), time.sleep(60)))"
    )
    target = tmp_path / "work" / "out"
    command = [sys.executable, "-c", code, str(base), str(tmp_path / "lora"), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        child.send_signal(signal.SIGKILL)
    assert not psutil.pid_exists(child.pid)
    assert not target.exists()
    (left,) = target.parent.iterdir()
    assert left.name.startswith(".")
    assert not (left / "config.json").exists()
    assert_same(merge(base, [tmp_path / "lora"], target), peft_merged(base, tmp_path / "lora"))


def peft_merged(base: Path, lora: Path) -> Any:
    return peft.PeftModel.from_pretrained(load(base), lora).merge_and_unload()


def test_verification_finds_a_wrong_number(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lora(tmp_path / "lora", load(base))
    honest = merging.encode

    def lying(rows: Any, dtype: str, name: str) -> Any:
        return honest(rows * np.float32(1.001), dtype, name)

    monkeypatch.setattr(merging, "encode", lying)
    with pytest.raises(EngineFailure, match="not written as computed"):
        merge(base, [tmp_path / "lora"], tmp_path / "work" / "out", verify=True)
    assert not list((tmp_path / "work").iterdir())
