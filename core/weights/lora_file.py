"""PEFT LoRA adapter → llama.cpp's GGUF adapter, which is used beside the weights (`loras=`) without merging.

Knows what such a file can hold: low-rank pairs on the linear layers of a LLaMA model. Layers trained in full, and pairs
on embeddings, are refused: those adapters must be merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, ModelNotFound, UnsupportedFeature
from ..gguf_header import read_model
from .adapter import Adapter, LowRank
from .checkpoint import read_json
from .convert import encode_rows, permuted
from .files import Progress, need_space, new_file, only_replaces
from .gguf_file import FILE_TYPES, Entry, entry_type, gguf_package
from .llama import Shape, gguf_name, heads_to_permute


@dataclass(frozen=True)
class _Half:
    """One half of a pair as it goes into the file."""

    entry: Entry
    change: LowRank
    name: str
    """The checkpoint's."""
    heads: int = 0
    factor: float = 1.0

    def rows(self) -> NDArray[Any]:
        tensor = self.change.a if self.entry.name.endswith("_a") else self.change.b
        rows = tensor.read(0, tensor.rows) * np.float32(self.factor)
        if self.heads:
            rows = permuted(rows, self.heads)
        return encode_rows(rows, self.entry.type, self.name)


def convert_adapter(
    adapter: Path, out: Path, type: str = "f16", base: Path | None = None, on_progress: Progress | None = None
) -> Path:
    """Write the PEFT adapter in the folder `adapter` to the GGUF file `out`.

    `base` is the checkpoint folder or GGUF file that it was trained on, whose shape decides how rows are ordered; by
    default the folder that `adapter_config.json` names. Raises `BadInput` for an adapter of another shape or an unknown
    type, `UnsupportedFeature` for layers that such a file cannot hold.
    """
    if type not in FILE_TYPES:
        raise BadInput(f"An adapter is not written as {type!r}.", f"Valid: {', '.join(FILE_TYPES)}.")
    found = Adapter.open(Path(adapter))
    halves = list(_plan(found, _shape(found, base), type))
    need_space(Path(out).parent, sum(half.entry.nbytes for half in halves) + (1 << 20))
    only_replaces(Path(out), b"GGUF", "GGUF file")
    with new_file(Path(out)) as partial:
        _write(partial, found, halves, on_progress)
    return Path(out)


def _plan(adapter: Adapter, shape: Shape, type: str) -> Iterator[_Half]:
    wanted = shape.weights()
    if adapter.full:
        raise _whole(adapter, f"trains {next(iter(adapter.full))} in full")
    if not adapter.low_rank:
        raise BadInput(f"The adapter {adapter.folder} changes nothing.", "Give one that was trained.")
    alpha = _alpha(adapter.low_rank)
    for name, change in adapter.low_rank.items():
        if change.embedding or gguf_name(name) is None or ".layers." not in name:
            raise _whole(adapter, f"changes {name}")
        if wanted.get(name) != change.shape:
            raise BadInput(
                f"{adapter.folder.name} changes {name} of shape {list(change.shape)}; the base has "
                f"{list(wanted[name]) if name in wanted else 'no such tensor'}.",
                "Name the model that it was trained on with --base.",
            )
        rank = change.a.shape[0]
        a, b = (Entry(f"{gguf_name(name)}.lora_{part}", t.shape, entry_type(t.shape, type)) for part, t in
                (("a", change.a), ("b", change.b)))  # fmt: skip
        yield _Half(a, change, name)
        yield _Half(b, change, name, heads_to_permute(name, shape), change.scale * rank / alpha)


def _alpha(pairs: Mapping[str, LowRank]) -> float:
    """llama.cpp scales every pair by alpha / rank, with one alpha: the first pair's that adds something; others are
    scaled in the file."""
    first = next((pair for pair in pairs.values() if pair.scale), None)
    return first.scale * first.a.shape[0] if first else 1.0


def _whole(adapter: Adapter, what: str) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"The adapter {adapter.folder.name} {what}, which a GGUF adapter cannot hold.",
        "Merge it instead: hanpaca merge BASE ADAPTER OUT --gguf Q4_K_M",
    )


def _shape(adapter: Adapter, base: Path | None) -> Shape:
    """The base model's, from a checkpoint folder or a GGUF file."""
    place = base or Path(str(adapter.config.get("base_model_name_or_path") or ""))
    if place.is_file():
        return Shape.of_gguf(read_model(place))
    config = read_json(place / "config.json")
    if not config:
        raise ModelNotFound(
            f"The model that {adapter.folder.name} was trained on is not at {str(place)!r}.",
            "Name its folder or GGUF file with --base.",
        )
    return Shape.of(config)


def _write(path: Path, adapter: Adapter, halves: list[_Half], on_progress: Progress | None) -> None:
    gguf = gguf_package()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", _alpha(adapter.low_rank))
    writer.add_name(adapter.folder.absolute().name)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for half in halves:
        kind = gguf.GGMLQuantizationType[half.entry.type.upper()]
        form = (half.entry.name, half.entry.shape, np.dtype(np.float32), half.entry.nbytes)
        writer.add_tensor_info(*form, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    done, total = 0, sum(half.entry.nbytes for half in halves)
    try:
        for half in halves:
            writer.write_tensor_data(half.rows())
            done += half.entry.nbytes
            if on_progress:
                on_progress(done, total)
    finally:
        writer.close()
