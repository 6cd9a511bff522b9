"""Growing a checkpoint's embedding and output layer to a larger vocabulary.

A new token starts as the mean of the old tokens that its text was split into, so that the grown model begins where
the old one was. Knows how weights lie on disk, not how they are trained; needs no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..weights.checkpoint import Checkpoint, Tensor
from ..weights.files import need_space, new_folder
from ..weights.llama import Shape
from ..weights.safetensors_file import Rows, encode, write_safetensors
from ..weights.vocabulary_files import SETTINGS, TOKENIZER_FILES, token_count
from .replaced import replaced_tokens

Start = Literal["mean", "random"]
_GROWN = ("model.embed_tokens.weight", "lm_head.weight")
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Grown:
    """Rows before, tokens of the new tokenizer, and rows after (a multiple of what was asked)."""

    before: int
    tokens: int
    rows: int


def grow(
    checkpoint: Path, tokenizer: Path, out: Path, *, multiple: int = 64, start: Start = "mean", seed: int = 0
) -> Grown:
    """Write `checkpoint` with the tokenizer of the folder `tokenizer` to the new folder `out`.

    The tokenizer's settings and chat template come from the checkpoint where the folder has none.
    Rows beyond the last token, up to a multiple of `multiple`, are the mean of all old rows. `start="random"` draws new
    rows with the old ones' standard deviation, for comparison. Raises `BadInput` unless the old tokenizer is the
    beginning of the new one.
    """
    source = Checkpoint.open(checkpoint)
    shape = Shape.of(source.config)
    tokens = token_count(tokenizer)
    if tokens is None:
        raise BadInput(f"{tokenizer} holds no tokenizer.", "Give a folder with tokenizer.model or tokenizer.json.")
    if multiple < 1 or start not in ("mean", "random"):
        raise BadInput("A multiple is at least 1, and new rows start as mean or random.", "Choose one of these.")
    groups = replaced_tokens(checkpoint, tokenizer)
    rows = -(-max(tokens, shape.vocabulary) // multiple) * multiple
    need_space(out.parent, sum(tensor.nbytes for tensor in source.tensors.values()) * 2)
    with new_folder(out) as folder:
        table = {name: _table_entry(t, rows, groups, start, seed) for name, t in source.tensors.items()}
        write_safetensors(folder / "model.safetensors", table)
        config = dict(source.config) | {"vocab_size": rows}
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
        if (checkpoint / "generation_config.json").is_file():
            shutil.copyfile(checkpoint / "generation_config.json", folder / "generation_config.json")
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, folder / name)
            elif name in SETTINGS and (checkpoint / name).is_file():  # `vocab extend` and `merge` write one file only
                shutil.copyfile(checkpoint / name, folder / name)
    return Grown(shape.vocabulary, tokens, rows)


def _table_entry(
    tensor: Tensor, rows: int, groups: dict[int, list[int]], start: Start, seed: int
) -> tuple[Tensor, Rows]:
    if tensor.name not in _GROWN:
        return tensor, _raw(tensor)
    wide = replace(tensor, shape=(rows, *tensor.shape[1:]))
    return wide, _grown(tensor, rows, groups, start, seed)


def _raw(tensor: Tensor) -> Rows:
    def rows() -> Iterator[NDArray[Any]]:
        for first in range(0, tensor.rows, _BLOCK_ROWS):
            yield tensor.raw(first, min(first + _BLOCK_ROWS, tensor.rows))

    return rows


def _grown(tensor: Tensor, rows: int, groups: dict[int, list[int]], start: Start, seed: int) -> Callable[[], Any]:
    def blocks() -> Iterator[NDArray[Any]]:
        old = tensor.read(0, tensor.rows)
        new = np.empty((rows, tensor.columns), dtype=np.float32)
        new[: tensor.rows] = old
        new[tensor.rows :] = old.mean(axis=0)
        chance = np.random.default_rng(seed)
        for token, parts in groups.items():  # some of them may lie in rows that the old model had to spare
            if start == "random":
                new[token] = chance.normal(0.0, old.std(), tensor.columns)
            elif parts:
                new[token] = old[parts].mean(axis=0)
        yield encode(new, tensor.dtype, tensor.name)

    return blocks
