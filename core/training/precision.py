"""What this machine computes fast: bfloat16 only where the processor has instructions for it. Knows no model."""

from __future__ import annotations

from pathlib import Path

_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""As Linux names them; the last one is ARM's."""


def computes_bfloat16() -> bool:
    """Whether a GPU here, or else the CPU, multiplies in bfloat16; elsewhere it is emulated and slower than float32."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    if torch.backends.mps.is_available():
        return False
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return False
    words = info.read_text(encoding="utf-8", errors="replace").lower()
    flags = next((line for line in words.splitlines() if line.startswith(("flags", "features"))), "")
    return bool(set(flags.split()) & set(_FLAGS))


def autocast(dtype: str) -> str:
    """The number format of the forward pass for an option: float32, bfloat16 or float16."""
    import torch

    if dtype != "auto":
        return dtype
    if computes_bfloat16():
        return "bfloat16"
    return "float16" if torch.cuda.is_available() else "float32"
