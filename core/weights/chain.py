"""Checkpoint → GGUF file of any type in one go, by way of a half-precision file that is removed again.

Knows only the order of `convert.py` and `quantize.py`, and what can be refused before the work begins.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import BadInput
from .checkpoint import Checkpoint
from .convert import TYPES, convert
from .files import Progress, need_space
from .llama import Shape
from .quantize import needs_imatrix, plan, quantize, type_name


def check_type(checkpoint: Path, type: str) -> str:
    """llama.cpp's spelling of `type`. Raises `BadInput` for one that is unknown or that needs an importance matrix."""
    name = type_name(type)
    if name.lower() not in TYPES and needs_imatrix(Shape.of(Checkpoint.open(checkpoint).config), name):
        raise BadInput(
            f"{name} needs an importance matrix.",
            "Make the F16 file first, then: hanpaca imatrix F16.gguf IMATRIX.gguf, and "
            "hanpaca quantize F16.gguf OUT.gguf TYPE --imatrix IMATRIX.gguf.",
        )
    return name


def need_room(base: Path, out: Path, type: str) -> None:
    """Raise `BadInput` unless the disk of `out` holds `base` merged and what `to_gguf` writes of that, all at once.

    An adapter with a larger vocabulary adds some; `merge` and `to_gguf` check exactly, each for itself.
    """
    model, name = Checkpoint.open(base), type_name(type)
    merged = sum(tensor.nbytes for tensor in model.tensors.values())
    need_space(out.parent, merged + _room(base, _steps(model, name)))


def _steps(model: Checkpoint, name: str) -> list[str]:
    """The types to write one after the other, the last of which stays."""
    if name.lower() in TYPES:
        return [name.lower()]
    return ["bf16" if {tensor.dtype for tensor in model.tensors.values()} == {"BF16"} else "f16", name]


def _room(checkpoint: Path, types: Sequence[str]) -> int:
    return sum(size for _, size in plan(checkpoint, types)) + (16 << 20)


def to_gguf(
    checkpoint: Path,
    out: Path,
    type: str,
    on_progress: Progress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Path:
    """Write the checkpoint in a folder to the GGUF file `out`, in any type that needs no importance matrix.

    Raises as `convert` and `quantize` do; a wrong type and too little disk (for the half-precision file and the result
    together) before anything is written.
    """
    name = check_type(checkpoint, type)
    half, *rest = _steps(Checkpoint.open(checkpoint), name)
    if not rest:
        return convert(checkpoint, out, half, on_progress, on_note)
    need_space(out.parent, _room(checkpoint, [half, name]))
    between = out.with_name(f".{out.name}.{os.getpid()}.{half}.partial")
    try:
        convert(checkpoint, between, half, on_progress, on_note)
        return quantize(between, out, name, on_progress)
    finally:
        between.unlink(missing_ok=True)
