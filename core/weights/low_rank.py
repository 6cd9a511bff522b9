"""A tuned checkpoint minus its base → a PEFT LoRA adapter: each layer's change as its nearest matrix of a given rank.

The truncated singular value decomposition is the nearest (Eckart and Young, 1936); it is found by random projection
(`torch.svd_lowrank`; Halko, Martinsson and Tropp, 2011). Knows checkpoints and PEFT's files, not how they were made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput, EngineUnavailable
from .checkpoint import Checkpoint, Tensor
from .files import Progress, free, need_space, new_folder
from .llama import Shape
from .safetensors_file import check_finite, write_safetensors

EXTRA, ROUNDS, SEED = 16, 4, 0
"""Random directions beyond the rank, and power iterations: errors then lie within a hundredth of the best ones."""


@dataclass(frozen=True)
class Extracted:
    """What an adapter keeps of a tuning."""

    path: Path
    kept: float
    """Share of the squared change of the linear layers that the adapter holds, from 0 to 1."""
    left_out: tuple[str, ...]
    """Tensors that the tuning changed and no adapter of this kind can hold: norms, embeddings, head."""


def extract_lora(base: Path, tuned: Path, out: Path, rank: int = 64, on_progress: Progress | None = None) -> Extracted:
    """Write to the new folder `out` the rank-`rank` LoRA adapter nearest to what `tuned` changed in `base`.

    Raises `BadInput` for checkpoints of different shapes, or where nothing was changed.
    """
    try:
        import torch
    except ImportError as error:
        raise EngineUnavailable(
            "Extracting an adapter needs torch.", 'Install it with: pip install "hanpaca[transformers]"'
        ) from error
    if rank < 1:
        raise BadInput(f"The rank must be at least 1, not {rank}.")
    free(Path(out))
    before, after = Checkpoint.open(Path(base)), Checkpoint.open(Path(tuned))
    names = _linear(before, after)
    torch.manual_seed(SEED)
    pairs: dict[str, Any] = {}
    whole = kept = 0.0
    for number, name in enumerate(names, 1):
        old, new = _all(before.tensors[name]), _all(after.tensors[name])
        for rows in (old, new):
            check_finite(rows, name)
        change = torch.from_numpy(new - old)
        if change.any():
            size = min(rank, *change.shape)
            u, s, v = torch.svd_lowrank(change, q=min(size + EXTRA, *change.shape), niter=ROUNDS)
            root = s[:size].sqrt()
            module = f"base_model.model.{name.removesuffix('.weight')}"
            pairs[f"{module}.lora_A.weight"] = (v[:, :size] * root).T.numpy()
            pairs[f"{module}.lora_B.weight"] = (u[:, :size] * root).numpy()
            whole, kept = whole + float(change.square().sum()), kept + float(s[:size].square().sum())
        if on_progress:
            on_progress(number, len(names))
    if not pairs:
        raise BadInput(f"{tuned} changes no linear layer of {base}.", "Give the checkpoint before and the one after.")
    left_out = tuple(name for name in before.tensors if name not in names and _differs(before, after, name))
    _write(Path(out), Path(base), rank, pairs)
    return Extracted(Path(out), min(1.0, kept / whole), left_out)


def _linear(before: Checkpoint, after: Checkpoint) -> list[str]:
    """The linear layers' weights, in order. Raises `BadInput` where the two differ in more than numbers."""
    shapes = [{name: tensor.shape for name, tensor in side.tensors.items()} for side in (before, after)]
    for name, shape in shapes[0].items():
        if shapes[1].get(name) != shape:
            other = shapes[1].get(name)
            raise BadInput(
                f"{name} is {list(shape)} in the base and {list(other) if other else 'missing'} in the tuned model.",
                "They are different models, or the vocabulary was grown: give the base that the tuning started from.",
            )
    wanted = Shape.of(before.config).weights()
    return [name for name, shape in wanted.items() if ".layers." in name and len(shape) == 2]


def _all(tensor: Tensor) -> Any:
    return tensor.read(0, tensor.rows)


def _differs(before: Checkpoint, after: Checkpoint, name: str) -> bool:
    return not np.array_equal(_all(before.tensors[name]), _all(after.tensors[name]))


def _write(out: Path, base: Path, rank: int, pairs: dict[str, Any]) -> None:
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.absolute()),
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": {},
        "target_modules": sorted({name.split(".lora_")[0].rsplit(".", 1)[1] for name in pairs}),
        "bias": "none",
        "inference_mode": True,
    }
    # A layer narrower than the rank has all of its change in fewer columns; zeros bring it to the rank.
    padded = {name: _to_rank(array, rank, axis=0 if ".lora_A." in name else 1) for name, array in pairs.items()}
    need_space(out.parent, sum(array.nbytes for array in padded.values()))
    blank = Tensor("", "F32", (), out, 0)
    with new_folder(out) as folder:
        table = {n: (replace(blank, name=n, shape=a.shape), lambda a=a: iter([a])) for n, a in padded.items()}
        write_safetensors(folder / "adapter_model.safetensors", table)
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _to_rank(array: Any, rank: int, axis: int) -> Any:
    missing = rank - array.shape[axis]
    widths = [(0, missing if number == axis else 0) for number in range(2)]
    return np.ascontiguousarray(np.pad(array, widths), dtype=np.float32)
