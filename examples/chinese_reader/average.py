"""The mean of checkpoints of one model, such as before and after a run: what was learned by heart weighs less in it.

    python examples/chinese_reader/average.py OUT CHECKPOINT CHECKPOINT [...]

A run over little data ends with its questions memorised; halfway back to where it began it reads new ones better
(Wortsman et al. 2021, https://arxiv.org/abs/2109.01903). Takes checkpoints in float32 or float16, as full training
writes them, and writes OUT in float32.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

WEIGHTS = "model.safetensors"


def average(out: Path, checkpoints: list[Path]) -> None:
    """Write the mean of every tensor, and the last checkpoint's other files.

    Raises `FileExistsError` where `out` exists, `ValueError` where the tensors differ.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: name a new folder.")
    total = {name: values.astype(np.float32) for name, values in load_file(checkpoints[0] / WEIGHTS).items()}
    for checkpoint in checkpoints[1:]:
        other = load_file(checkpoint / WEIGHTS)
        if {name: values.shape for name, values in other.items()} != {name: one.shape for name, one in total.items()}:
            raise ValueError(f"{checkpoint} has other tensors than {checkpoints[0]}: they are no runs of one model.")
        for name, values in other.items():
            total[name] += values
    out.mkdir(parents=True)
    for file in checkpoints[-1].glob("*.json"):
        if "config" in file.name or "tokenizer" in file.name:
            shutil.copy(file, out)
    save_file({name: values / len(checkpoints) for name, values in total.items()}, out / WEIGHTS, {"format": "pt"})


def main() -> int:
    if len(sys.argv) < 4:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        average(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
