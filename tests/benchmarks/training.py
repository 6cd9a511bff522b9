"""Useful tokens per second of training, against padding every batch to its longest example, and what packing changes.

    python tests/benchmarks/training.py [--data DIR] [--files FILE …] [--model smollm2] [--seconds 120] [--json]

The peer is the predecessor's way: examples in random order, batches of eight, padded to the longest one, a mask, logits
of every position, plain cross-entropy, transformers' own attention. Same model, examples and hardware, in turns in one
run; useful tokens are those that are no padding.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import Report

from hanpaca.core.training.base import load_model, open_base
from hanpaca.core.training.batches import Batches, collate
from hanpaca.core.training.loss import forward, losses
from hanpaca.core.training.options import FinetuneOptions
from hanpaca.core.training.run import prepare
from hanpaca.core.training.sources import Examples

BATCH = 8
LENGTH = 512
FILES = ["llamafactory_alpaca_zh_demo.json", "llamafactory_alpaca_en_demo.json", "belle_zh_seed_tasks.json"]
"""Chinese and English, long and short, as instruction sets are."""


def padded(examples: Examples, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The peer's batches, without end."""
    for epoch in itertools.count():
        order = np.random.default_rng((seed, epoch)).permutation(len(examples))
        for at in range(0, len(order) - BATCH + 1, BATCH):
            items = [examples.item(int(number)) for number in order[at : at + BATCH]]
            longest = max(len(item.ids) for item in items)
            ids = torch.zeros(BATCH, longest, dtype=torch.long)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for row, item in enumerate(items):
                count = len(item.ids)
                ids[row, :count] = torch.from_numpy(item.ids.astype(np.int64))
                mask[row, :count] = 1
                labels[row, :count][torch.from_numpy(item.weights > 0)] = ids[row, :count][
                    torch.from_numpy(item.weights > 0)
                ]
            yield {"input_ids": ids, "attention_mask": mask, "labels": labels}


def pad_step(model: Any, batch: dict[str, Any]) -> int:
    model(**batch, use_cache=False).loss.backward()
    return int(batch["attention_mask"].sum())


def packed_step(model: Any, batch: dict[str, Any]) -> int:
    loss = (losses(forward(model, batch), batch["targets"]) * batch["weights"]).sum() / batch["weights"].sum()
    loss.backward()
    return int(batch["input_ids"].numel())


def rate(step: Callable[[Any, Any], int], model: Any, batches: Iterator[Any], seconds: float) -> tuple[float, int]:
    """(tokens per second, tokens) of as many steps as take `seconds`."""
    start, tokens = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        tokens += step(model, next(batches))
        model.zero_grad(set_to_none=True)
    return tokens / (time.perf_counter() - start), tokens


def compare_losses(report: Report, model: Any, examples: Examples, batches: Batches) -> None:
    """The same examples packed and one by one, by the same weights."""
    items = batches.items(0)
    with torch.no_grad():
        whole = collate(items)
        packed = float((losses(forward(model, whole), whole["targets"]) * whole["weights"]).sum())
        single = 0.0
        for item in items:
            one = collate([item])
            single += float((losses(forward(model, one), one["targets"]) * one["weights"]).sum())
        weight = float(whole["weights"].sum())
    report.check("packed loss - unpacked loss", abs(packed - single) / weight, most=1e-4)


def run(report: Report, options: argparse.Namespace) -> None:
    folder = tempfile.TemporaryDirectory()
    with folder as name:
        files = [str(Path(options.data) / "instruct" / name) for name in options.files]
        settings = FinetuneOptions(
            base=options.model,
            data=tuple(files),
            out=name,
            method="full",
            length=LENGTH,
            batch=2048,
            checkpointing="off",
        )
        ready = prepare(settings, report.say)
        examples = ready.source
        assert isinstance(examples, Examples)
        ours = load_model(open_base(options.model, Path(name)), settings).train()
        from transformers import LlamaForCausalLM

        theirs = LlamaForCausalLM.from_pretrained(ready.base.folder, dtype=torch.float32).train()
        compare_losses(report, ours, examples, ready.batches)
        mine = (ready.batches[n] for n in itertools.cycle(range(ready.batches.real)))
        peer = padded(examples)
        packed_step(ours, next(mine))
        pad_step(theirs, next(peer))
        rates = {"packed": [], "padded": []}  # type: dict[str, list[float]]
        for _ in range(options.rounds):
            rates["packed"].append(rate(packed_step, ours, mine, options.seconds / options.rounds / 2)[0])
            rates["padded"].append(rate(pad_step, theirs, peer, options.seconds / options.rounds / 2)[0])
        middle = {name: float(np.median(found)) for name, found in rates.items()}
        ratios = [a / b for a, b in zip(rates["packed"], rates["padded"], strict=True)]
        report.say(f"  packed {middle['packed']:.0f} useful tokens/s, padded {middle['padded']:.0f}")
        report.check("useful tokens/s, packed / padded to the batch's longest", float(np.median(ratios)), least=1.5)
        filled = sum(len(item.ids) for n in range(ready.batches.real) for item in ready.batches.items(n))
        report.check("share of each batch that is filled", filled / (ready.batches.real * settings.batch))


def main() -> int:
    report = Report("training", __doc__.split("\n\n")[0])
    report.parser.add_argument("--model", default="smollm2", help="a checkpoint folder, a GGUF file or a name")
    report.parser.add_argument("--files", nargs="+", default=FILES, help="of the data folder's instruct/")
    report.parser.add_argument("--seconds", type=float, default=120, help="time to measure in, both ways together")
    report.parser.add_argument("--rounds", type=int, default=3, help="turns of both ways")
    options = report.parse()
    if not options.data:
        report.say("HANPACA_DATA names no data folder: nothing was measured.")
        return 1
    run(report, options)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
