"""How well a model foresees held-out text: bits per character, which compare across vocabularies. Knows PyTorch.

Every token is foreseen, the first one of a window from BOS (or EOS) alone, so that the whole text counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..chat import Tokenizer
from ..errors import BadInput
from ..vocabulary.corpus import documents, text_files
from .batches import collate
from .items import Item
from .loss import diverged, forward, losses

_LARGEST = 700.0
"""Loss per token above which there is no float64 for the perplexity."""


@dataclass(frozen=True)
class HeldOut:
    """A held-out text in tokens."""

    name: str
    ids: tuple[int, ...]
    characters: int


@dataclass(frozen=True)
class Foresight:
    """What a model gave on a text."""

    name: str
    bits_per_character: float
    perplexity: float
    """Per token: compares only under one tokenizer."""
    characters_per_token: float


def held_out(path: str, tokenizer: Tokenizer, characters: int, name: str = "") -> HeldOut:
    """The first `characters` of a text file, or of the files of a folder; its own name unless another is given."""
    parts: list[str] = []
    left = characters
    for document in documents(text_files([Path(path)])):
        parts.append(document.text[:left])
        left -= len(parts[-1])
        if left <= 0:
            break
    text = "\n".join(parts).strip()
    if not text:
        raise BadInput(f"{path} holds no text to evaluate on.", "Give a file with text in it.")
    return HeldOut(name or Path(path).name, tuple(tokenizer.tokenize(text)), len(text))


def foresee(model: Any, text: HeldOut, start: int, window: int, batch: int) -> Foresight:
    """Score a text in windows of `window` tokens; `start` is the token in front of each, `batch` tokens go at once.

    Raises `BadInput` where the loss is no number, or so large that the perplexity is none.
    """
    import torch

    ids = text.ids
    windows = [_item([start, *ids[at : at + window - 1]]) for at in range(0, len(ids), window - 1)]
    each = max(1, batch // window)
    total = 0.0
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    with torch.no_grad():
        for at in range(0, len(windows), each):
            tensors = collate(windows[at : at + each])
            moved = {k: v.to(device) if hasattr(v, "to") else v for k, v in tensors.items()}
            total += float(losses(forward(model, moved), moved["targets"]).double().sum())
    model.train(training)
    loss = total / len(ids)
    if not loss < _LARGEST:
        raise diverged(f"The loss on {text.name} is {loss:.3g}")
    return Foresight(
        text.name,
        total / math.log(2) / text.characters,
        math.exp(loss),
        text.characters / len(ids),
    )


def _item(ids: Sequence[int]) -> Item:
    weights = np.ones(len(ids), dtype=np.float32)
    weights[0] = 0
    return Item(np.array(ids, dtype=np.uint32), weights, (len(ids),))
