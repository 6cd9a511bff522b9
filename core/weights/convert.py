"""Checkpoint → GGUF, a few megabytes at a time.

Knows LLaMA-architecture checkpoints (safetensors or PyTorch, whole or in shards) and writes F32, F16, BF16 or Q8_0.
Other types are `quantize.py`'s work. Needs no torch unless the checkpoint is in PyTorch's format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, BadModelFile, UnsupportedFeature
from ..rope import llama3_factors
from .checkpoint import Checkpoint, Tensor
from .files import Progress, need_space, new_file, only_replaces
from .gguf_file import FILE_TYPES, Entry, entry_type, gguf_package, write_head
from .llama import Shape, heads_to_permute, ordered, read_rope, rope_note
from .safetensors_file import check_finite, encode
from .vocabulary_files import Vocabulary, read_vocabulary

TYPES = tuple(FILE_TYPES)
BLOCK_BYTES = 8 << 20
"""About how many bytes of float32 are in hand at a time."""


@dataclass(frozen=True)
class _Source:
    """Where one tensor of the new file comes from: rows of a checkpoint's tensor, or numbers computed here."""

    entry: Entry
    tensor: Tensor | None
    heads: int = 0
    computed: NDArray[np.float32] | None = None


def convert(
    checkpoint: Path,
    out: Path,
    type: str = "f16",
    on_progress: Progress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Path:
    """Write the LLaMA-architecture checkpoint in the folder `checkpoint` to the GGUF file `out`.

    `type` is one of `TYPES`; norms stay F32. `on_note` hears sentences about decisions (RoPE scaling). The file
    appears under its name only when complete. Raises `BadInput` for an unknown type or too little disk,
    `ModelNotFound` and `BadModelFile` for what is wrong with the checkpoint, `UnsupportedFeature` for a tokenizer or
    a RoPE that llama.cpp has no counterpart of.
    """
    model = Checkpoint.open(Path(checkpoint))
    sources, vocabulary = _plan(model, type), _vocabulary(model)
    total = sum(source.entry.nbytes for source in sources)
    need_space(Path(out).parent, total + (16 << 20))
    if on_note and (note := rope_note(model.config)):
        on_note(note)
    only_replaces(Path(out), b"GGUF", "GGUF file")
    with new_file(Path(out)) as partial:
        writer = _head(partial, model, type, sources, vocabulary)
        try:
            done = 0
            for source in sources:
                writer.write_tensor_data(_Stream(source))
                done += source.entry.nbytes
                if on_progress:
                    on_progress(done, total)
        finally:
            writer.close()
    return Path(out)


def write_hollow(checkpoint: Path, out: Path, type: str = "f16") -> int:
    """Write to `out` a GGUF file with everything but the weights, a hole in their place; give its exact size."""
    model = Checkpoint.open(Path(checkpoint))
    sources = _plan(model, type)
    writer = _head(out, model, type, sources, _vocabulary(model))
    return hollow_out(writer, [source.entry for source in sources])


def hollow_out(writer: Any, entries: Sequence[Entry]) -> int:
    """End a file whose head was written with a hole as large as its weights; give the file's size."""
    file = writer.fout[0]
    align = writer.data_alignment
    size = writer.ggml_pad(file.tell(), align) + sum(writer.ggml_pad(entry.nbytes, align) for entry in entries)
    file.truncate(size)
    writer.close()
    return int(size)


def _vocabulary(model: Checkpoint) -> Vocabulary:
    return read_vocabulary(model.folder, Shape.of(model.config).vocabulary)


def _plan(model: Checkpoint, type: str) -> list[_Source]:
    if type not in FILE_TYPES:
        raise BadInput(f"Conversion does not write {type!r}.", f"It writes {', '.join(TYPES)}; quantize from those.")
    shape, rope = Shape.of(model.config), read_rope(model.config)
    if (act := model.config.get("hidden_act") or "silu") not in ("silu", "swish"):
        raise UnsupportedFeature(
            f"This model's feed-forward layers use {act}; llama.cpp's LLaMA uses silu.",
            "Run the checkpoint itself, with PyTorch or vLLM.",
        )
    sources = [
        _Source(Entry(name, tensor.shape, entry_type(tensor.shape, type)), tensor, heads_to_permute(tensor.name, shape))
        for name, tensor in ordered(model, shape)
    ]
    if rope.scaling == "llama3":
        factors = np.array(llama3_factors(rope), dtype=np.float32)
        sources.append(_Source(Entry("rope_freqs.weight", factors.shape, "f32"), None, computed=factors))
    return sources


def _head(path: Path, model: Checkpoint, type: str, sources: Sequence[_Source], vocabulary: Vocabulary) -> Any:
    return write_head(
        path,
        name=model.folder.absolute().name,
        type=type,
        shape=Shape.of(model.config),
        rope=read_rope(model.config),
        epsilon=_epsilon(model.config.get("rms_norm_eps", 1e-6)),
        vocabulary=vocabulary,
        entries=[source.entry for source in sources],
    )


def _epsilon(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise BadModelFile(f"config.json says rms_norm_eps is {value!r}.", "Fetch the file again.")
    return float(value)


class _Stream:
    """One tensor as the `gguf` writer takes it (`nbytes`, `tofile`), read and written a block of rows at a time."""

    def __init__(self, source: _Source) -> None:
        self.nbytes = source.entry.nbytes
        self._source = source

    def byteswap(self, inplace: bool = False) -> Any:
        raise NotImplementedError("GGUF files are written on little-endian machines.")

    def tofile(self, file: IO[bytes]) -> None:
        for rows in _blocks(self._source):
            np.ascontiguousarray(rows).tofile(file)


def _blocks(source: _Source) -> Iterator[NDArray[Any]]:
    """The rows of the new tensor, in its order and number format."""
    tensor, type = source.tensor, source.entry.type
    if tensor is None:
        assert source.computed is not None
        yield source.computed
        return
    if source.heads and tensor.rows == 1:
        yield encode_rows(permuted(tensor.read(0, 1).reshape(-1, 1), source.heads).reshape(-1), type, tensor.name)
        return
    step = max(1, BLOCK_BYTES // (4 * tensor.columns))
    if source.heads:
        head = tensor.rows // source.heads
        step = max(1, step // head) * head
    for start in range(0, tensor.rows, step):
        stop = min(start + step, tensor.rows)
        same = tensor.dtype.lower() == type
        rows = tensor.raw(start, stop) if same else tensor.read(start, stop)
        if same:
            check_finite(rows, tensor.name)
        if source.heads:
            rows = permuted(rows, (stop - start) * source.heads // tensor.rows)
        yield rows if same else encode_rows(rows, type, tensor.name)


def permuted(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Each head's two halves of rows, interleaved."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def encode_rows(rows: NDArray[np.float32], type: str, name: str) -> NDArray[Any]:
    """float32 rows in the file's number format. Raises `BadModelFile` for numbers that are not finite."""
    if type != "q8_0":
        return encode(rows, type.upper(), name)
    check_finite(rows, name)
    gguf = gguf_package()
    encoded: NDArray[Any] = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[type.upper()])
    return encoded
