"""Writing safetensors files a few rows at a time (format: a little-endian length, a JSON table, the numbers)."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, BadModelFile
from .checkpoint import Tensor

Rows = Callable[[], Iterator[NDArray[Any]]]
"""Gives a tensor's numbers in order, block by block."""
_EXPONENTS: dict[str, tuple[Any, int]] = {
    "float32": (np.uint32, 0x7F800000),
    "float16": (np.uint16, 0x7C00),
    "uint16": (np.uint16, 0x7F80),
}
"""Where a number's exponent lies; all of its bits are set in infinities and NaNs."""


def write_safetensors(path: Path, tensors: Mapping[str, tuple[Tensor, Rows]]) -> None:
    """Write `tensors`: name → (its format and shape; where they lie does not matter here, what gives its numbers)."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (tensor, _) in tensors.items():
        span = [offset, offset + tensor.nbytes]
        table[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": span}
        offset = span[1]
    head = json.dumps(table).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for _, rows in tensors.values():
            write_blocks(file, rows())
        if file.tell() != 8 + len(head) + offset:
            raise AssertionError(f"{path} did not get the {offset} bytes it promised")


def write_blocks(file: Any, blocks: Iterable[NDArray[Any]]) -> None:
    """Append arrays to an open file."""
    for block in blocks:
        np.ascontiguousarray(block).tofile(file)


def check_finite(rows: NDArray[Any], name: str) -> None:
    """Raise `BadModelFile` for infinities and NaNs among float32, float16, or BF16 numbers (as uint16)."""
    bits, exponent = _EXPONENTS[rows.dtype.name]
    if ((rows.view(bits) & exponent) == exponent).any():
        raise BadModelFile(f"{name} holds numbers that are not finite.", "The weights are broken: fetch them again.")


def encode(rows: NDArray[np.float32], dtype: str, name: str) -> NDArray[Any]:
    """float32 → F32, F16 or BF16 (as uint16), to the nearest.

    Raises `BadModelFile` for numbers that are not finite, and `BadInput` beyond F16's range.
    """
    check_finite(rows, name)
    if dtype == "F32":
        return rows
    if dtype == "BF16":
        bits = rows.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        halves = rows.astype(np.float16)
    if np.isinf(halves).any():
        raise BadInput(f"{name} holds numbers beyond F16's range.", "Use bf16 or f32 instead.")
    return halves
