"""What training refuses: models that lack weights or are no models, options that fit no layer or do nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from training_runs import base, rows, tuning

from hanpaca.core.errors import BadInput, BadModelFile
from hanpaca.core.training.run import prepare

__all__ = ["base", "rows"]

pytest.importorskip("torch")
pytest.importorskip("peft")


def altered(base: Path, folder: Path, **config: Any) -> Path:
    """A copy of the base whose config.json says something else."""
    shutil.copytree(base, folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(settings | config), encoding="utf-8")
    return folder


# -- models --------------------------------------------------------------------------------------------------------


def test_a_model_that_lacks_weights_is_not_filled_up_with_random_ones(base: Path, rows: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    lacking = altered(base, tmp_path / "lacking")
    weights = load_file(lacking / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, lacking / "model.safetensors")
    with pytest.raises(BadModelFile, match=r"lacks model\.layers\.0\.mlp\.up_proj"):
        prepare(tuning(lacking, rows, tmp_path / "run"))
    more = altered(base, tmp_path / "more", num_hidden_layers=3)
    with pytest.raises(BadModelFile, match=r"lacks model\.layers\.2"):
        prepare(tuning(more, rows, tmp_path / "run"))
