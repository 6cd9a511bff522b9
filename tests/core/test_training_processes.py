"""Training in two processes, whole in each or in shards: it gives what one process gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import QUIET, SMALL, base, curve, load, loss_of, rows, tuning

from hanpaca.core.training.options import LORA
from hanpaca.core.training.run import train

__all__ = ["base", "rows"]

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = QUIET


def launch(command: list[str], *, accelerate: Path | None = None) -> None:
    """`hanpaca …` in two processes."""
    runner = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    if accelerate:
        runner = ["accelerate.commands.launch", "--config_file", str(accelerate), "--main_process_port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    arguments = [sys.executable, "-m", *runner, "-m", "hanpaca.integrations.cli", *command]
    ran = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]


def two_process_command(base: Path, rows: Path, out: Path, method: str = "lora") -> list[str]:
    command = ["finetune", str(base), str(rows), "--out", str(out), "--method", method]
    for name, value in (SMALL | {"accumulate": 1, "dropout": 0.0}).items():
        if method == "lora" or name not in LORA:
            command += [f"--{name.replace('_', '-')}", str(value)]
    return command


def test_two_processes_give_the_losses_of_one(base: Path, rows: Path, tmp_path: Path) -> None:
    options = tuning(base, rows, tmp_path / "one", accumulate=2, dropout=0.0)
    train(options)
    launch(two_process_command(base, rows, tmp_path / "two"))
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), abs=1e-4)
    adapter = peft.PeftModel.from_pretrained(load(base), str(tmp_path / "two"))
    expected = peft.PeftModel.from_pretrained(load(base), str(tmp_path / "one"))
    found, wanted = (loss_of(model, options, tmp_path / "other") for model in (adapter, expected))
    assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_fsdp_saves_what_was_trained(base: Path, rows: Path, tmp_path: Path, method: str) -> None:
    """Two processes that hold half of each layer; the saved model, loaded afresh, has the loss of one process."""
    settings = Path(__file__).parents[2] / "examples" / "training" / "fsdp-cpu.yaml"
    launch(two_process_command(base, rows, tmp_path / "sharded", method), accelerate=settings)
    options = tuning(base, rows, tmp_path / "one", method=method, dropout=0.0)
    train(options)
    assert curve(tmp_path / "sharded") == pytest.approx(curve(tmp_path / "one"), abs=1e-3)
    models = []
    for run in (tmp_path / "sharded", tmp_path / "one"):
        models.append(load(run) if method == "full" else peft.PeftModel.from_pretrained(load(base), str(run)))
    found, wanted = (loss_of(model, options, tmp_path / "other") for model in models)
    assert found == pytest.approx(wanted, abs=1e-3)
