"""A checkpoint folder as a table of tensors that can be read a few rows at a time.

Knows safetensors and PyTorch's zip format (whose table is read with `weights_only`; no object is unpickled), one file
or many. Knows no architecture. Nothing is mapped into memory: rows are read where they lie in the file.
"""

from __future__ import annotations

import json
import math
import operator
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadModelFile, EngineUnavailable, HanpacaError, ModelNotFound

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""The number formats that weights come in, by their safetensors names."""

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.(?:safetensors|bin)$")
_HEADER_LIMIT = 100_000_000


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: row-major numbers from `offset` on in `file`."""

    name: str
    dtype: str
    """A key of `ITEM_BYTES`, or another format's name, which `read` refuses."""
    shape: tuple[int, ...]
    file: Path
    offset: int

    @property
    def rows(self) -> int:
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def columns(self) -> int:
        return math.prod(self.shape) // self.rows if self.rows else 0

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES.get(self.dtype, 0)

    def raw(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` as they lie: (rows, columns) of float32, float16, or uint16 for BF16."""
        if self.dtype not in ITEM_BYTES:
            raise BadModelFile(
                f"{self.name} in {self.file.name} holds {self.dtype} numbers.",
                "Only F32, F16 and BF16 checkpoints can be read: take the unquantized model.",
            )
        kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[self.dtype]
        count = (stop - start) * self.columns
        with self.file.open("rb") as file:
            file.seek(self.offset + start * self.columns * ITEM_BYTES[self.dtype])
            data = np.fromfile(file, dtype=kind, count=count)
        if data.size != count:
            raise _truncated(self.file)
        return data.reshape(stop - start, self.columns)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` as float32, exactly."""
        data = self.raw(start, stop)
        if self.dtype == "BF16":
            return (data.astype(np.uint32) << 16).view(np.float32)
        return data.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Checkpoint:
    """A folder with `config.json`, weights and tokenizer files."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the tables of all weight files.

        Raises `ModelNotFound` where there is no checkpoint, and `BadModelFile` for a missing or truncated shard.
        """
        config = read_json(folder / "config.json")
        if not config:
            raise ModelNotFound(
                f"{folder} is no checkpoint: it has no config.json.",
                "Give a folder in Hugging Face's format, with config.json, weights and tokenizer.",
            )
        return cls(folder, config, read_tensors(folder, ("model", "pytorch_model")))

    @cached_property
    def largest_file(self) -> int:
        """Bytes of the largest weight file."""
        return max(file.stat().st_size for file in {tensor.file for tensor in self.tensors.values()})


@contextmanager
def sound(what: object) -> Iterator[None]:
    """Raises `BadModelFile` where reading `what`, which somebody else wrote, meets values that cannot be."""
    try:
        yield
    except HanpacaError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise BadModelFile(
            f"{what} is damaged: {_first_line(error)} ({type(error).__name__}).", "Fetch the file again."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is no file. Raises `BadModelFile` for anything else."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadModelFile(f"{path} is no JSON: {error}.", "Fetch the file again.") from error
    if not isinstance(found, dict):
        raise BadModelFile(f"{path} holds no JSON object.", "Fetch the file again.")
    return found


def read_tensors(folder: Path, stems: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of the weight files in `folder` that are named after one of `stems`, safetensors first."""
    found: dict[str, Tensor] = {}
    for file in weight_files(folder, stems):
        found |= read_safetensors(file) if file.suffix == ".safetensors" else read_bin(file)
    return found


def weight_files(folder: Path, stems: tuple[str, ...]) -> list[Path]:
    """The weight files in `folder` that are named after one of `stems`, safetensors first.

    Raises `ModelNotFound` where there is none, and `BadModelFile` where a shard is missing.
    """
    for suffix in (".safetensors", ".bin"):
        for stem in stems:
            if files := _files(folder, stem, suffix):
                return files
    names = ", ".join(f"{stem}{suffix}" for suffix in (".safetensors", ".bin") for stem in stems)
    raise ModelNotFound(f"{folder} holds no weights.", f"Looked for: {names}, whole or in shards.")


def _files(folder: Path, stem: str, suffix: str) -> list[Path]:
    index = read_json(folder / f"{stem}{suffix}.index.json")
    if index:
        with sound(folder / f"{stem}{suffix}.index.json"):
            names = sorted({str.strip(name) for name in index.get("weight_map", {}).values()})  # or it is no text
    else:
        names = sorted(path.name for path in folder.glob(f"{stem}*{suffix}") if _is_part(path.name, stem, suffix))
        if shard := _SHARD.search(names[0]) if names else None:
            names = [f"{stem}-{number:05d}-of-{shard[2]}{suffix}" for number in range(1, int(shard[2]) + 1)]
    if any(name != Path(name).name for name in names):
        raise BadModelFile(f"The index of {folder} names files outside of it.", "Fetch it from a source you trust.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise BadModelFile(
            f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing[:3])}.",
            "Fetch the missing files into the folder.",
        )
    return [folder / name for name in names]


def _is_part(name: str, stem: str, suffix: str) -> bool:
    return name == stem + suffix or bool(name.startswith(stem + "-") and _SHARD.search(name))


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file: a little-endian length, a JSON table, the numbers."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 0 < length <= min(size - 8, _HEADER_LIMIT):
            raise _truncated(file)
        try:
            table = json.loads(stream.read(length))
        except ValueError as error:
            raise BadModelFile(f"{file} is no safetensors file.", "Fetch the file again.") from error
    with sound(file):
        entries = {name: entry for name, entry in table.items() if name != "__metadata__"}
        return {name: _described(name, entry, file, 8 + length, size) for name, entry in entries.items()}


def _described(name: str, entry: Mapping[str, Any], file: Path, start: int, size: int) -> Tensor:
    """A line of a safetensors table; its numbers are counted from `start`."""
    begin, end = entry["data_offsets"]
    tensor = Tensor(name, str(entry["dtype"]), tuple(map(operator.index, entry["shape"])), file, start + begin)
    if not 0 <= begin <= end or min(tensor.shape, default=0) < 0:
        raise ValueError(f"{name} has impossible sizes")
    if start + end > size or (tensor.dtype in ITEM_BYTES and tensor.nbytes != end - begin):
        raise _truncated(file)
    return tensor


def read_bin(file: Path) -> dict[str, Tensor]:
    """The tensors of one PyTorch file. Needs torch, which reads the table and allocates nothing."""
    try:
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError as error:
        raise EngineUnavailable(
            f"{file.name} is a PyTorch file, and torch is not installed.",
            'Install it with: pip install "hanpaca[transformers]"',
        ) from error
    try:
        with FakeTensorMode():
            table = torch.load(file, weights_only=True)
    except Exception as error:
        raise BadModelFile(f"{file} cannot be read: {_first_line(error)}", "Fetch the file again.") from error
    if not isinstance(table, dict):
        raise BadModelFile(f"{file} holds no weights by name.", "Save the model's state_dict, as safetensors.")
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    found = {}
    for name, value in table.items():
        if not isinstance(value, torch.Tensor):
            raise BadModelFile(f"{file} holds more than weights ({name}).", "Save the weights alone, as safetensors.")
        offset = getattr(value.untyped_storage(), "_checkpoint_offset", None)
        if offset is None or not value.is_contiguous():
            raise BadModelFile(
                f"{file} was saved in PyTorch's old format.", "Load it with torch and save it as safetensors."
            )
        dtype = names.get(value.dtype, str(value.dtype))
        found[name] = Tensor(name, dtype, tuple(value.shape), file, offset + value.storage_offset() * value.itemsize)
    return found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _truncated(file: Path) -> BadModelFile:
    return BadModelFile(f"{file} ends too early: it was not copied in full.", "Fetch the file again.")
