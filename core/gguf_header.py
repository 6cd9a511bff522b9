"""What a GGUF file says of itself, read in milliseconds and checked before llama.cpp ever sees the file.

Knows the container only: header, metadata, tensor list (format: ggml's `docs/gguf.md`). Long arrays, such as the
pieces of a vocabulary, are stepped over; only their lengths are kept.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import BadInput, BadModelFile, UnsupportedFeature
from .rope import Rope, beyond, of_llama3_factors

MAGIC = b"GGUF"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_KEPT = 64
"""Arrays longer than this are stepped over."""

TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
"""Type number: name, elements per block, bytes per block."""


@dataclass(frozen=True)
class LongArray:
    """An array that was stepped over."""

    length: int


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: `shape` as GGUF counts it, the contiguous dimension first."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    """Bytes from the start of the file."""
    size: int
    """Bytes; 0 where the type is not known."""


@dataclass(frozen=True, eq=False)
class GGUFInfo:
    """A file's metadata and tensors."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    file_size: int

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def vocabulary_size(self) -> int:
        """Pieces of the tokenizer; 0 where the file has none."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.length if isinstance(tokens, LongArray) else len(tokens or ())

    @property
    def chat_template(self) -> str | None:
        """The Jinja template in the metadata."""
        template = self.metadata.get("tokenizer.chat_template")
        return template if isinstance(template, str) and template.strip() else None

    @property
    def is_adapter(self) -> bool:
        """Whether this is a LoRA adapter, not a model."""
        return self.metadata.get("general.type") == "adapter"

    def number(self, key: str, default: float) -> float:
        """The architecture's own field `key`, as in `llama.<key>`; the first entry where layers differ."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        value = value[0] if isinstance(value, list) and value else value
        return value if isinstance(value, int | float) else default


def read(path: str | Path) -> GGUFInfo:
    """Read and check a file's header. Raises `BadModelFile` where it is no GGUF file, broken or cut short."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if file.read(4) != MAGIC:
                raise BadModelFile(f"{path} is not a GGUF file.", _what_it_is(path))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return _parse(path, view, size)
    except OSError as error:
        raise BadModelFile(f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions.") from None
    except (struct.error, IndexError, UnicodeDecodeError):
        raise _truncated(path, "its header ends early") from None


def rope_of(info: GGUFInfo) -> Rope:
    """The rotary embedding that the file describes, its table of factors (`rope_freqs.weight`) included.

    Raises `BadModelFile` where it describes none, `UnsupportedFeature` for scaling that this project does not know.
    """
    return replace(_described(info), beyond=beyond(info.vocabulary_size))


def _described(info: GGUFInfo) -> Rope:
    window = int(info.number("context_length", 4096))
    heads = max(1, int(info.number("attention.head_count", 1)))
    dim = int(info.number("rope.dimension_count", info.number("embedding_length", 0) // heads))
    base = float(info.number("rope.freq_base", 10_000.0))
    kind = info.metadata.get(f"{info.architecture}.rope.scaling.type", "none")
    factor = float(info.number("rope.scaling.factor", info.number("rope.scale_linear", 1.0)))
    if kind == "none" and info.number("rope.scale_linear", 0) > 1:
        kind = "linear"  # files of 2023 carry only this field
    original = int(info.number("rope.scaling.original_context_length", window))
    factors = _rope_factors(info)
    attention = float(info.number("rope.scaling.attn_factor", 1.0))
    if (factors and kind in ("linear", "yarn")) or (attention != 1 and kind != "yarn"):
        raise UnsupportedFeature(
            f"{info.path} scales its rotary embedding in two ways at once ({kind}, and factors of its own).",
            "Take the model's checkpoint and convert it with `hanpaca convert`.",
        )
    try:
        if kind == "yarn" and factor > 1:
            fast, slow = (float(info.number(f"rope.scaling.yarn_beta_{end}", usual)) for end, usual in _BETAS)
            return Rope(base, dim, original, "yarn", factor, original, fast, slow, attention)
        if kind == "linear" and factor > 1:
            return Rope(base, dim, max(1, round(window / factor)), "linear", factor, round(window / factor))
        if factors:
            return of_llama3_factors(base, window, factors)
        return Rope(base, dim, window, "none", 1.0, window)
    except BadInput as error:
        raise BadModelFile(f"{info.path} is damaged: {error.problem}", "Download or convert it again.") from None


_BETAS = (("fast", 32.0), ("slow", 1.0))
"""YaRN's ramp as published. llama.cpp reads a LLaMA file's own from our context parameters only."""


def _rope_factors(info: GGUFInfo) -> tuple[float, ...]:
    """The numbers in `rope_freqs.weight`; empty where the file has none."""
    for path in _parts(info.path):
        tensors = info.tensors if path == info.path else read(path).tensors
        for tensor in tensors:
            if tensor.name == "rope_freqs.weight" and tensor.type == "F32" and len(tensor.shape) == 1:
                with path.open("rb") as file:
                    file.seek(tensor.offset)
                    return struct.unpack(f"<{tensor.shape[0]}f", file.read(tensor.size))
    return ()


class _Cursor:
    """Reads forward through a mapped file; raises `IndexError` or `struct.error` at its end."""

    def __init__(self, view: mmap.mmap) -> None:
        self.view, self.at = view, 4

    def scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.view, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        data = self.take(self.scalar("<Q"))
        return data.decode("utf-8", "replace")

    def take(self, length: int) -> bytes:
        self.skip(length)
        return self.view[self.at - length : self.at]

    def skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self.view):
            raise IndexError

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise IndexError
        return self.scalar(_SCALARS[kind])

    def array(self) -> list[Any] | LongArray:
        kind, length = self.scalar("<I"), self.scalar("<Q")
        if kind == _ARRAY:
            raise IndexError
        if length <= _KEPT:
            return [self.value(kind) for _ in range(length)]
        if kind in _SCALARS:
            self.skip(length * struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            self._skip_texts(length)
        else:
            raise IndexError
        return LongArray(length)

    def _skip_texts(self, count: int) -> None:
        unpack, view, at, end = struct.Struct("<Q").unpack_from, self.view, self.at, len(self.view)
        for _ in range(count):
            at += 8 + unpack(view, at)[0]
            if at > end:
                raise IndexError
        self.at = at


def _parse(path: Path, view: mmap.mmap, size: int) -> GGUFInfo:
    cursor = _Cursor(view)
    version = cursor.scalar("<I")
    if version not in (2, 3):
        hint = "Convert the model again with today's tools."
        if version > 0xFFFF:
            hint = "It was written for big-endian machines: convert the model on this kind of machine."
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        raise BadModelFile(f"{path} is GGUF version {version}; versions 2 and 3 can be read.", hint)
    tensor_count, field_count = cursor.scalar("<Q"), cursor.scalar("<Q")
    if min(tensor_count, field_count) < 0 or tensor_count > size or field_count > size:
        raise IndexError
    metadata: dict[str, Any] = {}
    for _ in range(field_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.scalar("<I"))
    raw = [_tensor(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    start = cursor.at + -cursor.at % (alignment if isinstance(alignment, int) and alignment > 0 else 32)
    tensors = tuple(TensorInfo(t.name, t.shape, t.type, start + t.offset, t.size) for t in raw)
    end = max((tensor.offset + tensor.size for tensor in tensors), default=0)
    if end > size:
        raise _truncated(path, f"it has {size:,} of at least {end:,} bytes")
    return GGUFInfo(path, metadata, tensors, size)


def _tensor(cursor: _Cursor) -> TensorInfo:
    name, dimensions = cursor.text(), cursor.scalar("<I")
    if dimensions > 8:
        raise IndexError
    shape = tuple(cursor.scalar("<Q") for _ in range(dimensions))
    number, offset = cursor.scalar("<I"), cursor.scalar("<Q")
    kind, block, block_size = TENSOR_TYPES.get(number, (f"type {number}", 1, 0))
    elements = 1
    for length in shape:
        elements *= length
    return TensorInfo(name, shape, kind, offset, elements // block * block_size)


def _truncated(path: Path, detail: str) -> BadModelFile:
    hint = "Download it again (`hanpaca pull` resumes and checks), or copy it again."
    return BadModelFile(f"{path} is truncated or damaged: {detail}.", hint)


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "It is empty: download or copy it again."
    if start[:4] in (b"ggml", b"lmgg", b"fmgg", b"tjgg", b"ggjt"):
        return "It is a model in the format before GGUF (2023): download or convert a GGUF version."
    if start[:2] == b"PK" or path.suffix in (".bin", ".pt", ".pth"):
        return "It looks like a PyTorch checkpoint: give its folder, or convert it with `hanpaca convert`."
    if b'{"' in start[:16] or path.suffix == ".safetensors":
        return "It looks like safetensors: give the folder that holds it, or convert it with `hanpaca convert`."
    if start.lstrip()[:1] == b"<":
        return "It is a web page, saved in place of the model: download it again."
    if start.startswith(b"version https://git-lfs"):
        return "It is a git-lfs pointer, not the model: run `git lfs pull`, or use `hanpaca pull`."
    return "Give a .gguf file, a checkpoint folder or a catalog name (`hanpaca models` lists them)."


_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def read_model(path: str | Path) -> GGUFInfo:
    """Like `read`, for a file that is to be loaded as a model.

    Any part of a split model stands for the whole: the answer is the first part's. Raises `BadModelFile` also for
    adapters, for vocabularies without weights, and where parts are missing.
    """
    parts = _parts(Path(path))
    missing = [part.name for part in parts if not part.exists()]
    if missing and len(parts) > 1:
        raise BadModelFile(f"{parts[0].parent} lacks parts of the model: {', '.join(missing)}.", "Download them too.")
    for part in parts[1:]:
        read(part)
    path = parts[0]
    info = read(path)
    if info.is_adapter:
        raise BadModelFile(f"{path} is a LoRA adapter, not a model.", "Give it as a LoRA to the model it was made for.")
    if not info.tensors or not info.architecture:
        raise BadModelFile(
            f"{path} holds no weights.", "Give the model itself; this may be a vocabulary or a projector."
        )
    return info


def _parts(path: Path) -> list[Path]:
    """All parts that a split model's name promises, in order; else `path` alone."""
    match = _PART.search(path.name)
    if match is None:
        return [path]
    stem, count = path.name[: match.start()], match[2]
    return [path.with_name(f"{stem}-{i + 1:05}-of-{count}.gguf") for i in range(int(count))]
