"""What runs where: device, number format and attention for the hardware at hand. Knows no model."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

from ..errors import BadInput
from ..memory import available

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Hardware:
    """What the choice depends on."""

    device: str
    """cpu, cuda, mps, or one of several: cuda:1."""
    capability: tuple[int, int] = (0, 0)
    """CUDA's compute capability."""
    flash_attention: bool = False
    """Whether the package flash-attn is installed."""
    free_memory: int = 0
    """Bytes, for weights on the CPU."""


def detect(device: str) -> Hardware:
    """The hardware here; `device` "auto" takes a GPU where there is one. Raises `BadInput` for one that is missing."""
    import torch

    kind = device.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        device = kind = next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there.get(kind):
        valid = ", ".join(["auto", *(name for name, found in there.items() if found)])
        raise BadInput(f"There is no device {device!r} here.", f"Valid: {valid}.")
    return Hardware(
        device,
        torch.cuda.get_device_capability(device) if kind == "cuda" else (0, 0),
        importlib.util.find_spec("flash_attn") is not None,
        free_memory(torch.device("cpu")),
    )


def free_memory(device: Any) -> int:
    """Bytes free where a `torch.device` keeps its tensors."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available()


def choose(hardware: Hardware, dtype: str, parameters: int) -> tuple[str, str]:
    """(number format, attention) for a model of so many parameters.

    GPUs from Ampere on (capability 8.0) get bfloat16, and FlashAttention-2 where it is installed; older ones and
    Apple's float16; the CPU float32 if two thirds of the free memory hold it, else bfloat16. All but FlashAttention-2
    use PyTorch's own scaled dot-product attention.
    """
    kind = hardware.device.partition(":")[0]
    if dtype == "auto":
        if kind == "cpu":
            dtype = "float32" if 4 * parameters <= hardware.free_memory * 2 / 3 else "bfloat16"
        else:
            dtype = "bfloat16" if kind == "cuda" and hardware.capability >= (8, 0) else "float16"
    flash = kind == "cuda" and hardware.capability >= (8, 0) and hardware.flash_attention and dtype != "float32"
    return dtype, "flash_attention_2" if flash else "sdpa"
