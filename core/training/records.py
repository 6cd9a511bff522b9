"""What a run leaves behind while it goes: a line for each step, a plot, the last whole checkpoint. Knows no data."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..weights.files import new_file
from .loss import diverged

LOG, PLOT = "log.jsonl", "loss.png"
Reports = Callable[[dict[str, Any]], None]


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a last one that was cut off is left out."""
    file = run / LOG
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def forget_after(run: Path, step: int) -> None:
    """Drop what the log says of steps that will be taken again."""
    kept = [line for line in read_log(run) if line["step"] <= step]
    with new_file(run / LOG) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole: its state is written last, and a kill may have come before."""
    found = []
    for path in folder.glob("checkpoint-*"):
        try:
            step = int(json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])
        except (OSError, ValueError, KeyError):
            continue
        found.append((step, path))
    return max(found, default=(0, None))[1]


def plot(run: Path) -> Path | None:
    """Draw the log as a picture; None where there is nothing to draw or matplotlib is missing."""
    lines = read_log(run)
    if not any("loss" in line for line in lines):
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    axes.plot(*zip(*losses, strict=True), linewidth=0.8, label="loss")
    axes.set(xlabel="step", ylabel="loss per token")
    bits: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, figures in line.get("held_out", {}).items():
            bits.setdefault(name, []).append((line["step"], figures["bits_per_character"]))
    if bits:
        right = axes.twinx()
        right.set_ylabel("held out: bits per character")
        for name, points in bits.items():
            right.plot(*zip(*points, strict=True), "o--", markersize=3, label=name.encode("ascii", "replace").decode())
        right.legend(loc="upper right")
    with new_file(run / PLOT) as partial:
        figure.savefig(partial, format="png", dpi=120)
    return run / PLOT


@cache
def recorder_class() -> Any:
    """A callback of the Trainer; made when first used."""
    import transformers

    class Recorder(transformers.TrainerCallback):
        """Writes the log and tells the caller; evaluates where it is due."""

        def __init__(
            self,
            run: Path,
            reports: Reports | None,
            evaluate: Callable[[], dict[str, Any]],
            every: int | None,
            step_tokens: Callable[[int], int],
        ) -> None:
            self._run, self._reports, self._evaluate, self._every = run, reports, evaluate, every
            self._tokens = step_tokens
            self._since = time.perf_counter()
            self._logged = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._since, self._logged = time.perf_counter(), state.global_step
            if state.global_step == 0:
                self._held_out(state)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                raise diverged(f"The loss of step {state.global_step} is no number")
            length = logs.get("grad_norm")
            now = time.perf_counter()
            seconds, self._since = now - self._since, now
            taken = range(self._logged, state.global_step)
            tokens = sum(self._tokens(step) for step in taken)
            self._logged = state.global_step
            line = {
                "step": state.global_step,
                "steps": state.max_steps,
                "loss": logs["loss"],
                "learning_rate": logs["learning_rate"],
                "grad_norm": length if length is not None and math.isfinite(length) else None,
                **{name: logs[name] for name in ("accuracy", "margin") if name in logs},
                "taken": len(taken),
                "tokens": tokens,
                "seconds": round(seconds, 3),
            }
            self._write(state, line)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # What is not logged before a checkpoint is lost to the log of a resumed run; and the last loss is wanted.
            if state.global_step % args.save_steps == 0 or state.global_step >= state.max_steps:
                control.should_log = True
            if self._every and state.global_step % self._every == 0 and state.global_step < state.max_steps:
                self._held_out(state)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                plot(self._run)
            self._since = time.perf_counter()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= state.max_steps:  # and was not stopped before
                self._held_out(state)

        def _held_out(self, state: Any) -> None:
            begun = time.perf_counter()
            figures = self._evaluate()
            if figures:
                self._write(state, {"step": state.global_step, "steps": state.max_steps, "held_out": figures})
            self._since += time.perf_counter() - begun  # the step before it is logged after it

        def _write(self, state: Any, line: dict[str, Any]) -> None:
            if not state.is_world_process_zero:
                return
            with (self._run / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            if self._reports:
                with suppress(OSError):  # nobody reads what is printed; the run matters more
                    self._reports(line)

    return Recorder
