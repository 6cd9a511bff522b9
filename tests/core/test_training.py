"""Training tiny models for real: what is learned, what resuming gives, what is saved, what it costs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_logits import native
from training_runs import QUIET, SMALL, base, curve, load, loss_of, rows, tuning, write_base, write_rows, write_text

from hanpaca.core.errors import BadInput
from hanpaca.core.training.batches import Batches, collate
from hanpaca.core.training.estimate import estimate
from hanpaca.core.training.loss import forward, losses
from hanpaca.core.training.options import PreferenceOptions, PretrainOptions
from hanpaca.core.training.preference import preference_trainer
from hanpaca.core.training.records import read_log
from hanpaca.core.training.run import prepare, train
from hanpaca.core.weights.convert import convert
from hanpaca.core.weights.merge import merge
from hanpaca.integrations.cli import main

__all__ = ["base", "rows"]

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = QUIET


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("tied") / "b", tied=True)


# -- the loss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_packed_loss_and_gradients_equal_those_of_single_examples(
    base: Path, rows: Path, tmp_path: Path, weight: float
) -> None:
    """And so do the gradients: against transformers' own forward, with plain cross-entropy over all logits."""
    from transformers import LlamaForCausalLM

    ready = prepare(tuning(base, rows, tmp_path / "run", prompt_weight=weight))
    packed: Any = load(base)
    plain: Any = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    batch = ready.batches[0]
    items = ready.batches.items(0)
    assert len(items) > 1
    mine = (losses(forward(packed, batch), batch["targets"]) * batch["weights"]).sum()
    mine.backward()
    theirs = torch.zeros(())
    for item in items:
        ids, weights = torch.tensor(item.ids.astype(np.int64)), torch.tensor(item.weights)
        logits = plain(input_ids=ids[None], use_cache=False).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        theirs = theirs + (each * weights[1:]).sum()
    theirs.backward()
    assert abs(mine.item() - theirs.item()) / theirs.item() < 1e-5
    for (name, a), b in zip(packed.named_parameters(), plain.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() <= 1e-4 * max(1e-3, b.grad.abs().max().item()), name


def test_a_batch_without_weights_has_a_loss_of_zero(base: Path) -> None:
    from hanpaca.core.training.items import Item

    batch = collate([Item(np.array([5], np.uint32), np.zeros(1, np.float32), (1,))])
    model = load(base)
    loss = (losses(forward(model, batch), batch["targets"]) * batch["weights"]).sum()
    loss.backward()
    assert loss.item() == 0


# -- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora"])
def test_tuning_learns_and_what_it_saved_has_the_trained_loss(
    base: Path, rows: Path, tmp_path: Path, method: str
) -> None:
    options = tuning(base, rows, tmp_path / "run", method=method, epochs=6, dropout=0.0)
    result = train(options)
    run = tmp_path / "run"
    falling = curve(run)
    assert result.loss < falling[0] - 0.5
    assert (run / "tokenizer.model").read_bytes() == (base / "tokenizer.model").read_bytes()
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    if method == "full":
        cached = [json.loads((folder / "config.json").read_text())["use_cache"] for folder in (base, run)]
        assert cached == [True, True]
    assert not list(run.rglob("*.bin")) + list(run.rglob("*.pt*"))
    fresh = load(base) if method == "lora" else load(run)
    untrained = loss_of(load(base), options, tmp_path / "other")
    if method == "lora":
        fresh = peft.PeftModel.from_pretrained(fresh, str(run))
    assert loss_of(fresh, options, tmp_path / "other") == pytest.approx(falling[-1], rel=0.25)
    assert loss_of(fresh, options, tmp_path / "other") < untrained - 0.5


@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_lora_merges_to_pefts_logits_and_llama_cpp_agrees(
    base: Path, tied: Path, rows: Path, tmp_path: Path, kind: str
) -> None:
    start = tied if kind == "tied" else base
    train(tuning(start, rows, tmp_path / "run", epochs=2))
    wrapped = peft.PeftModel.from_pretrained(load(start), str(tmp_path / "run")).eval()
    merged = merge(start, [tmp_path / "run"], tmp_path / "merged", verify=True)
    assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is (kind == "tied")
    tokens = np.random.default_rng(0).integers(3, 400, 64).tolist()
    with torch.no_grad():
        expected = wrapped(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
        found = load(merged).eval()(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    assert (found - expected).abs().max() < 1e-5
    file = convert(merged, tmp_path / "merged.gguf", "f32")
    with native(file, 64) as model:
        argmax = np.concatenate([chunk.argmax(1) for chunk in model.chunks(tokens)])
    assert argmax.tolist() == expected.argmax(1).tolist()


def test_an_adapter_over_a_grown_vocabulary_holds_what_was_trained(base: Path, rows: Path, tmp_path: Path) -> None:
    from checkpoints import write_tokenizer

    from hanpaca.core.vocabulary.grow import grow
    from hanpaca.core.vocabulary.pieces import merge_pieces, train_pieces

    more = train_pieces(["花落知多少月光故乡" * 5, "红豆相思明月" * 9], tmp_path / "more.model", 300, threads=1)
    merge_pieces(base / "tokenizer.model", more, tmp_path / "wide.model")
    write_tokenizer(tmp_path / "wide", tmp_path / "wide.model", pad=False)
    grown = grow(base, tmp_path / "wide", tmp_path / "grown")
    assert grown.tokens > 420
    options = tuning(tmp_path / "grown", rows, tmp_path / "run", epochs=4, dropout=0.0)
    result = train(options)
    wide = peft.PeftModel.from_pretrained(load(tmp_path / "grown"), str(tmp_path / "run"))
    assert loss_of(wide, options, tmp_path / "other") == pytest.approx(result.loss, rel=0.25)
    merged = merge(tmp_path / "grown", [tmp_path / "run"], tmp_path / "merged")
    assert loss_of(load(merged), options, tmp_path / "other") == pytest.approx(
        loss_of(wide, options, tmp_path / "other"), abs=1e-5
    )
    assert (merged / "tokenizer.model").read_bytes() == (tmp_path / "wide.model").read_bytes()


def test_pretraining_mixes_evaluates_and_repeats_from_its_file(base: Path, tmp_path: Path) -> None:
    zh, other = write_text(tmp_path / "zh.txt", 60), write_text(tmp_path / "other.txt", 20)
    options = PretrainOptions(
        base=str(base), data=(str(zh),), out=str(tmp_path / "run"), mix=(f"{other}=0.2",), eval=(str(zh),),
        method="full", length=64, batch=256, accumulate=1, epochs=3, learning_rate=5e-3, threads=1,
    )  # fmt: skip
    result = train(options)
    before, after = (figures["zh.txt"]["bits_per_character"] for figures in (result.before, result.held_out))
    assert after < before - 0.5
    again = ["pretrain", "--run", str(tmp_path / "run" / "run.json"), "--out", str(tmp_path / "again"), "--json"]
    assert main(again) == 0
    assert curve(tmp_path / "again") == pytest.approx(curve(tmp_path / "run"), abs=1e-6)
    with pytest.raises(BadInput, match="finished run"):
        train(options)


# -- what it costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"also": ()}, {"method": "full"}], ids=["published", "lora alone", "full"])
@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_the_plan_counts_what_is_trained(
    base: Path, tied: Path, rows: Path, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    from hanpaca.core.training.base import load_model

    options = tuning(tied if kind == "tied" else base, rows, tmp_path / "run", **changes)
    ready = prepare(options)
    found = estimate(ready)
    model = load_model(ready.base, options)
    assert found.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.steps == ready.steps
    assert found.tokens == sum(len(item.ids) for n in range(len(ready.batches)) for item in ready.batches.items(n))


def test_the_command_plans_previews_and_refuses(
    base: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", str(base), str(rows), "--out", str(tmp_path / "run"), "--template", "llama-2"]
    assert main([*command, "--plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1
    assert main([*command, "--preview", "2"]) == 0
    assert "[INST]" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert main([*command, "--rnak", "3"]) == 2
    assert "--rank" in capsys.readouterr().err
    assert main(["finetune", str(base), str(tmp_path / "no.jsonl"), "--out", str(tmp_path / "run")]) == 2
    assert "no.jsonl does not exist" in capsys.readouterr().err
    assert main(["finetune", str(base)]) == 2
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "novel.txt").write_text("x")
    assert main(command) == 2
    assert "is no run" in capsys.readouterr().err


def test_batches_come_in_a_multiple_for_every_process(base: Path, rows: Path, tmp_path: Path) -> None:
    ready = prepare(tuning(base, rows, tmp_path / "run"))
    for multiple in (1, 2, 3, 4):
        made = Batches(ready.source, tokens=300, epochs=1, seed=0, multiple=multiple)
        assert len(made) % multiple == 0
        assert [float(made[n]["weights"].sum()) for n in range(made.real, len(made))] == [0.0] * (len(made) - made.real)


# -- preferences ---------------------------------------------------------------------------------------------------


def test_preference_loss_is_dpos_and_pairs_become_told_apart(base: Path, tmp_path: Path) -> None:
    """Against the formula over transformers' own logits; then the chosen answers win."""
    from training_runs import SENTENCES

    pairs = [
        {"instruction": f"第{n}句诗？", "chosen": SENTENCES[n % 8][:12], "rejected": SENTENCES[(n + 3) % 8][:9]}
        for n in range(24)
    ]
    rows = write_rows(tmp_path / "pairs.jsonl", pairs)
    settings = SMALL | {"method": "full", "epochs": 10, "batch": 512, "accumulate": 1, "dtype": "float32"}
    options = PreferenceOptions(base=str(base), data=(str(rows),), out=str(tmp_path / "run"), **settings)
    ready = prepare(options)
    items = ready.batches.items(0)
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    reference = torch.randn(len(items), 2)
    expected = 0.0
    with torch.no_grad():
        for item, before in zip(items, reference, strict=True):
            sums = []
            halves = (np.split(numbers, [item.segments[0]]) for numbers in (item.ids, item.weights))
            for ids, weights in zip(*halves, strict=True):
                tokens = torch.tensor(ids.astype(np.int64))
                shares = plain(input_ids=tokens[None], use_cache=False).logits[0, :-1].log_softmax(-1)
                sums.append((shares.gather(1, tokens[1:, None])[:, 0] * torch.tensor(weights[1:])).sum())
            margin = 0.1 * ((sums[0] - before[0]) - (sums[1] - before[1]))
            expected -= float(torch.nn.functional.logsigmoid(margin))
        batch = collate(items) | {"reference": reference}
        kind = preference_trainer()
        found = float(kind.batch_loss(kind.__new__(kind), load(base), batch))
    assert found == pytest.approx(expected, rel=1e-5)
    train(options)
    lines = [line for line in read_log(tmp_path / "run") if "loss" in line]
    assert lines[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert lines[-1]["loss"] < 0.5
    assert lines[-1]["accuracy"] > 0.9
    assert lines[-1]["margin"] > 0.5


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_first_margin_is_none_in_half_precision_too(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """What the untrained model gives is computed in the numbers of the steps; a frozen base may be in bfloat16."""
    pairs = [{"instruction": "诗？", "chosen": "花落知多少", "rejected": "春眠不觉晓"}]
    if method == "lora":
        monkeypatch.setattr("hanpaca.core.training.base.weights_dtype", lambda *_: torch.bfloat16)
    settings = SMALL | {"method": method, "also": ("embed_tokens", "lm_head"), "dtype": "bfloat16", "accumulate": 1}
    options = PreferenceOptions(
        base=str(base), data=(str(write_rows(tmp_path / "pairs.jsonl", pairs)),), out=str(tmp_path / "run"), steps=1,
        **settings,
    )  # fmt: skip
    train(options)
    assert read_log(tmp_path / "run")[0]["margin"] == 0
