"""Importance matrices: how much each column of a tensor matters, measured on a text by `core.evaluation.importance` or
by llama.cpp's `llama-imatrix`.

Knows the two file formats, GGUF and the older `.dat`, which is only read. Knows nothing of quantization.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import BadModelFile
from ..gguf_header import MAGIC, GGUFInfo, read

_SUM, _COUNT = ".in_sum2", ".counts"
HINT = "Make one of this model: hanpaca imatrix MODEL.gguf IMATRIX.gguf."


@dataclass(frozen=True)
class Importance:
    """Of one tensor."""

    squares: NDArray[np.float32]
    """Sums of the squares of each column's inputs, (columns,)."""
    count: int
    """Inputs that were summed."""


def write_imatrix(path: Path, tensors: Mapping[str, Importance], *, dataset: str, chunk: int) -> None:
    """Write llama.cpp's GGUF format: tensor name → importance; `chunk` is the length of a piece of text, in tokens."""
    import gguf

    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", -(-max(found.count for found in tensors.values()) // chunk))
    writer.add_uint32("imatrix.chunk_size", chunk)
    for name, found in tensors.items():
        writer.add_tensor(name + _SUM, found.squares.reshape(1, -1))
        writer.add_tensor(name + _COUNT, np.array([[found.count]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_imatrix(path: Path) -> dict[str, NDArray[np.float32]]:
    """Tensor name → mean square of each input column. Raises `BadModelFile` for a file of another kind."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        found = _from_gguf(read(path)) if start == MAGIC else _from_dat(path.read_bytes())
    except (OSError, struct.error, ValueError, UnicodeDecodeError) as error:
        if isinstance(error, BadModelFile):
            raise
        raise BadModelFile(f"{path} is no importance matrix: {error}.", HINT) from None
    if not found:
        raise BadModelFile(f"{path} holds no importance matrix.", HINT)
    return found


def _from_gguf(info: GGUFInfo) -> dict[str, NDArray[np.float32]]:
    if info.metadata.get("general.type") != "imatrix":
        return {}
    arrays = {}
    for tensor in info.tensors:
        count = tensor.size // 4
        shape = tuple(reversed(tensor.shape))
        arrays[tensor.name] = np.fromfile(info.path, np.float32, count, offset=tensor.offset).reshape(shape)
    found = {}
    for name, sums in arrays.items():
        counts = arrays.get(name.removesuffix(_SUM) + _COUNT)
        if name.endswith(_SUM) and counts is not None:
            mean = sums.reshape(counts.size, -1) / np.maximum(counts.reshape(-1, 1), 1)
            mean[counts.reshape(-1) == 0] = 1.0  # never seen in the text: no column matters more than another
            found[name.removesuffix(_SUM)] = np.ascontiguousarray(mean.reshape(-1), dtype=np.float32)
    return found


def _from_dat(data: bytes) -> dict[str, NDArray[np.float32]]:
    (entries,) = struct.unpack_from("<i", data, 0)
    at, found = 4, {}
    for _ in range(entries):
        (length,) = struct.unpack_from("<i", data, at)
        name = data[at + 4 : at + 4 + length].decode()
        calls, size = struct.unpack_from("<ii", data, at + 4 + length)
        at += 12 + length
        values = np.frombuffer(data, np.float32, size, at).copy()
        at += 4 * size
        found[name] = values / calls if calls > 0 else values
    return found
