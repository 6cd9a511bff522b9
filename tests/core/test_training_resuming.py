"""What a run refuses, tells and keeps: changed data, mistakes in options, rows left out, ends that were cut short."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_runs import ROWS, SENTENCES, SMALL, base, curve, rows, tuning, write_rows, write_text

from hanpaca.core.errors import BadInput
from hanpaca.core.training.options import Options, PreferenceOptions, as_json, from_json
from hanpaca.core.training.records import last_checkpoint, read_log, recorder_class
from hanpaca.core.training.resuming import alone
from hanpaca.core.training.run import train
from hanpaca.core.training.stopping import stopping
from hanpaca.integrations.cli import main
from hanpaca.integrations.cli.train import _text

__all__ = ["base", "rows"]

pytest.importorskip("torch")
pytest.importorskip("peft")
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]
PAIRS = [
    {"instruction": f"第{n}句诗？", "chosen": SENTENCES[n % 8][:12], "rejected": SENTENCES[(n + 3) % 8][:9]}
    for n in range(16)
]


def stopped(options: Options, step: int) -> None:
    """A run that is interrupted after a step."""

    def hears(line: dict[str, Any]) -> None:
        if line["step"] >= step and "loss" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, reports=hears)


def steps(run: Path) -> list[int]:
    return [line["step"] for line in read_log(run) if "loss" in line]


def test_a_run_does_not_go_on_with_other_data(base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    options = tuning(base, rows, tmp_path / "run", steps=6, save_every=2)
    stopped(options, 3)
    write_rows(rows, ROWS[:50])
    with pytest.raises(BadInput, match="tokenizer of the run in"):
        train(options)
    write_rows(rows)
    assert train(options).steps == 6


def test_pairs_in_another_order_are_other_data(base: Path, tmp_path: Path) -> None:
    """The untrained model's figures belong to the pairs in their order."""
    rows = write_rows(tmp_path / "pairs.jsonl", PAIRS)
    options = PreferenceOptions(
        base=str(base), data=(str(rows),), out=str(tmp_path / "run"), **SMALL, epochs=4, save_every=1
    )
    stopped(options, 2)
    write_rows(rows, PAIRS[::-1])
    with pytest.raises(BadInput, match="have changed"):
        train(options)


def test_a_mistake_in_an_option_leaves_the_folder_free(base: Path, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl"), tmp_path / "run"
    for changes in ({"eval": ("missing.txt",)}, {"targets": ("no_such_layer",)}):
        with pytest.raises(BadInput):
            train(tuning(base, rows, out, steps=1, **changes))
    with pytest.raises(BadInput, match="schedule"):
        tuning(base, rows, out, schedule="foo")
    assert train(tuning(base, rows, out, steps=1)).steps == 1


def test_rows_left_out_are_told_each_time_and_all_written_down(base: Path, tmp_path: Path) -> None:
    bad = [{"instruction": f"没有答案{n}"} for n in range(7)] + [{"instruction": "很长" * 400, "output": "短"}]
    rows = write_rows(tmp_path / "rows.jsonl", [*ROWS[:20], *bad])
    for name in ("first", "second"):  # the second time from the cache
        said: list[str] = []
        options = tuning(base, rows, tmp_path / name, steps=1, bad_rows="skip")
        train(options, said.append)
        assert any(text.startswith("7 rows are left out") and "… and 2 more" in text for text in said)
        written = (tmp_path / name / "left-out.txt").read_text(encoding="utf-8").splitlines()
        assert len(written) == 8 and f"{rows}, line 28: a question is longer than --length" in written


def test_the_last_step_is_logged_and_so_is_every_checkpoint(base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    options = tuning(base, rows, tmp_path / "whole", steps=7, save_every=3, log_every=4)
    result = train(options)
    assert steps(tmp_path / "whole") == [3, 4, 6, 7] and result.loss > 0
    assert "NaN" not in (tmp_path / "whole" / "done.json").read_text(encoding="utf-8")
    stopped(replace(options, out=str(tmp_path / "killed")), 4)
    train(replace(options, out=str(tmp_path / "killed")))
    whole, killed = ([line["loss"] for line in read_log(tmp_path / n) if "loss" in line] for n in ("whole", "killed"))
    assert killed == pytest.approx(whole, abs=1e-5)


def test_a_folder_has_one_run_at_a_time(base: Path, tmp_path: Path) -> None:
    options = tuning(base, write_rows(tmp_path / "rows.jsonl"), tmp_path / "run", steps=1)
    with alone(tmp_path / "run"), pytest.raises(BadInput, match="Another process trains in"):
        train(options)
    assert train(options).steps == 1


def test_held_out_files_of_one_name_are_told_apart(base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        texts.append(str(write_text(tmp_path / name / "held.txt", 3)))
    result = train(tuning(base, rows, tmp_path / "run", steps=1, eval=tuple(texts)))
    assert set(result.held_out) == set(texts)


def test_evaluating_takes_no_time_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor from it: a line has the seconds of its own steps, and what is left is reckoned by the step."""
    now = [0.0]
    lines: list[dict[str, Any]] = []

    def evaluate() -> dict[str, Any]:
        now[0] += 100
        return {"t": {"bits_per_character": 1.0}}

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    recorder = recorder_class()(tmp_path, lines.append, evaluate, 2, lambda step: 40)
    state = SimpleNamespace(global_step=0, max_steps=60, is_world_process_zero=True)
    args, control = SimpleNamespace(save_steps=1000), SimpleNamespace()
    recorder.on_train_begin(args, state, control)
    for step in range(1, 7):
        now[0] += 30
        state.global_step = step
        recorder.on_step_end(args, state, control)
        if step % 3 == 0:
            recorder.on_log(args, state, control, {"loss": 1.0, "learning_rate": 0.1})
    logged = [line for line in lines if "loss" in line]
    assert [(line["taken"], line["tokens"], line["seconds"]) for line in logged] == [(3, 120, 90)] * 2
    assert _text(logged[1]) == "step 6/60, loss 1.0000, 1 tokens/s, about 0 h 27 min left"


def test_a_file_that_goes_on_after_its_array_is_refused(base: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(ROWS[:3]) + "\n" + json.dumps(ROWS[:2]), encoding="utf-8")
    with pytest.raises(BadInput, match="goes on after its array, in line 2"):
        train(tuning(base, rows, tmp_path / "run", steps=1))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"instruction": "x", "output": "y \ud83d"}, "half of a character"),
        ({"instruction": "x", "output": "y", "history": 5}, "history"),
        ({"instruction": "x", "chosen": "a", "rejected": "b"}, "hanpaca prefer"),
    ],
)
def test_bad_rows_are_told_with_their_place(base: Path, tmp_path: Path, row: dict[str, Any], why: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(BadInput, match=f"line 2: .*{why}"):
        train(tuning(base, rows, tmp_path / "run", steps=1))


def test_a_damaged_run_file_is_named(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl"), tmp_path / "run"
    train(tuning(base, rows, out, steps=1))
    file = out / "run.json"
    table = json.loads(file.read_text(encoding="utf-8"))
    for field, value, wrong in (
        ("steps", 2.5, "whole number"),
        ("rank", None, "whole number"),
        ("data", "x", "a list"),
    ):
        file.write_text(json.dumps(table | {"options": table["options"] | {field: value}}), encoding="utf-8")
        with pytest.raises(BadInput, match=wrong):
            from_json(file)
    file.write_text("{", encoding="utf-8")
    assert main(["finetune", "--run", str(file), "--out", str(tmp_path / "again")]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_killed_run_goes_on_with_the_same_losses(base: Path, rows: Path, tmp_path: Path) -> None:
    options = tuning(base, rows, tmp_path / "whole", steps=14, save_every=3, dropout=0.1)
    train(options)
    killed = tmp_path / "killed"
    command = ["finetune", str(base), str(rows), "--out", str(killed), "--steps", "14", "--save-every", "3"]
    for name, value in (SMALL | {"dropout": 0.1}).items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    code = f"import sys; from hanpaca.integrations.cli import main; sys.exit(main({command!r}))"
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(curve(killed)) < 5:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "done.json").is_file()
    assert len(curve(killed)) >= 5
    assert last_checkpoint(killed / "checkpoints") is not None
    with pytest.raises(BadInput, match="other options: rank"):
        train(replace(options, out=str(killed), rank=8))
    said: list[str] = []
    train(replace(options, out=str(killed)), said.append)
    assert any("Going on from checkpoint-" in text for text in said)
    assert curve(killed) == pytest.approx(curve(tmp_path / "whole"), abs=1e-5)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_loses_no_step(base: Path, rows: Path, tmp_path: Path, sent: signal.Signals, code: int) -> None:
    out = tmp_path / "run"
    options = tuning(base, rows, out, steps=9, save_every=100, eval=(str(write_text(tmp_path / "held.txt")),))
    # Reports come in the main thread between two steps, so that the signal comes during the sixth.
    script = f"""
import os, sys
from contextlib import contextmanager
from hanpaca.integrations.cli import main
from hanpaca.integrations.cli.train import _text
from hanpaca.integrations.cli import train as command
@contextmanager
def reports(*, quiet):
    yield lambda line: os.kill(os.getpid(), {int(sent)}) if line["step"] == 5 and "loss" in line else None
command._reports = reports
sys.exit(main(["finetune", "--run", {str(tmp_path / "options.json")!r}]))
"""
    (tmp_path / "options.json").write_text(as_json(options), encoding="utf-8")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == code and "the same command goes on" in done.stderr, done.stderr
    state = last_checkpoint(out / "checkpoints")
    assert state is not None and state.name == "checkpoint-6"
    assert not (out / "done.json").exists()
    train(options)
    train(replace(options, out=str(tmp_path / "whole")))
    assert curve(out) == pytest.approx(curve(tmp_path / "whole"), abs=1e-5)
    assert len([line for line in read_log(out) if "held_out" in line]) == 2, "before and after, once each"


def test_a_second_signal_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with stopping(said.append) as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # the same one, as a launcher passes it on
        assert stop.signal == signal.SIGTERM and len(said) == 1
        monkeypatch.setattr("hanpaca.core.training.stopping.AGAIN", 0.0)
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_signal_is_heard_though_nobody_reads_what_is_printed() -> None:
    def hears(_: str) -> None:
        raise BrokenPipeError

    with stopping(hears) as stop:
        signal.raise_signal(signal.SIGINT)
    assert stop.signal == signal.SIGINT


def test_a_signal_that_somebody_else_answers_stays_theirs() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with stopping(print) as stop:
            signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM] and stop.signal is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_checkpoint_that_was_cut_off_is_not_gone_on_from(tmp_path: Path) -> None:
    for step in (3, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text('{"global_step": 3}')
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    (tmp_path / "checkpoint-6" / "trainer_state.json").write_text('{"global_st')
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
