"""A tiny model with a sentencepiece vocabulary trained on the spot, and files to train it on: no data folder needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint

from hanpaca.core.training.loss import forward, losses
from hanpaca.core.training.options import FinetuneOptions, Options
from hanpaca.core.training.records import read_log
from hanpaca.core.training.run import prepare
from hanpaca.core.vocabulary.pieces import train_pieces

QUIET = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
"""Marks against PEFT's and PyTorch's warnings of what is meant here."""
SENTENCES = [
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
    "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "The llama grazes on the high plain, and the alpaca stands beside it in the morning light.",
    "红豆生南国，春来发几枝。愿君多采撷，此物最相思。",
    "空山不见人，但闻人语响。返景入深林，复照青苔上。",
    "A quiet village lies at the foot of the mountain where the river bends towards the sea.",
    "千山鸟飞绝，万径人踪灭。孤舟蓑笠翁，独钓寒江雪。",
]
ROWS = [
    {
        "instruction": f"第{n}句诗是什么？",
        "input": "请背诵" if n % 3 == 0 else "",
        "output": SENTENCES[n % 8][: 8 + n % 17],
    }
    for n in range(60)
]


def write_base(folder: Path, *, tied: bool = False, seed: int = 0) -> Path:
    """A checkpoint of 2 layers over 420 pieces."""
    folder.mkdir(parents=True)
    model = train_pieces(SENTENCES * 3, folder / "pieces.model", 420, coverage=0.98, threads=1)
    return write_checkpoint(
        folder / "model", tokenizer_model=model, vocabulary=448, hidden=32, ffn=64, heads=2, kv_heads=1, tied=tied,
        context=512, spread=0.08, seed=seed,
    )  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`write_base`, once a module."""
    return write_base(tmp_path_factory.mktemp("base") / "b")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """`ROWS` in a file."""
    return write_rows(tmp_path / "rows.jsonl")


def write_rows(file: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    """Rows as JSON lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows or ROWS), encoding="utf-8")
    return file


def write_text(file: Path, repeat: int = 20) -> Path:
    """Paragraphs that differ, of the sentences above."""
    text = "\n\n".join(f"{n}：{SENTENCES[n % 8]}{SENTENCES[(n * 3 + 1) % 8]}" for n in range(repeat))
    file.write_text(text, encoding="utf-8")
    return file


SMALL: dict[str, Any] = {
    "template": "llama-2", "length": 256, "batch": 300, "accumulate": 2, "rank": 4, "learning_rate": 5e-3, "threads": 1,
}  # fmt: skip


def tuning(base: Path, rows: Path, out: Path, **changes: Any) -> FinetuneOptions:
    return FinetuneOptions(**{"base": str(base), "data": (str(rows),), "out": str(out), **SMALL, **changes})


def curve(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run) if "loss" in line]


def loss_of(model: Any, options: Options, run: Path) -> float:
    """The loss of the first batches, without dropout."""
    import torch

    ready = prepare(replace(options, out=str(run)))
    model.eval()
    total = weight = 0.0
    with torch.no_grad():
        for number in range(3):
            batch = ready.batches[number]
            total += float((losses(forward(model, batch), batch["targets"]) * batch["weights"]).sum())
            weight += float(batch["weights"].sum())
    return total / weight


def load(folder: Path) -> Any:
    import torch
    from transformers import LlamaForCausalLM

    from hanpaca.core.training.attention import register

    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=register())
