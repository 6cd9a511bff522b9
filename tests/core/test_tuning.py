"""Tuning on small random files and on the packaged model: what is made, kept, used and undone."""

import dataclasses
from pathlib import Path

import gguf_files
import pytest

import hanpaca
from hanpaca.core import tuning
from hanpaca.core.catalog import resolve
from hanpaca.core.errors import BadInput
from hanpaca.core.evaluation.speed import measure
from hanpaca.core.weights.quantize import plan


def used_file(source) -> Path:
    """What `load` would open."""
    path = tuning.tuned(source).path
    assert path is not None
    return path


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("HANPACA_CACHE", str(tmp_path / "cache"))
    shape = gguf_files.Shape(hidden=128, ffn=256)
    return resolve(gguf_files.write_gguf(tmp_path / "random.gguf", shape=shape, context=2048))


def test_the_fastest_type_within_the_allowed_loss_is_kept_and_used(source):
    trials, chosen = tuning.tune(source, ["Q8_0", "F16"], loss=10.0)
    assert [trial.type for trial in trials] == ["as it is", "Q8_0", "F16"]
    assert all(trial.prefill > 0 and set(trial.decode) == {1, 4, 16} for trial in trials)
    assert chosen.rate == max(trial.rate for trial in trials)
    with hanpaca.load(source.path) as model:
        used = model.source.path
        assert used is not None
        assert (used == source.path) == (chosen.type == "as it is")
        assert model.complete("the", max_tokens=2).usage.completion_tokens
    kept = sorted(path.name for path in (tuning._folder(source.path)).glob("*.gguf"))
    assert kept == ([] if chosen.type == "as it is" else [used.name]), "the others' files are deleted"


def test_by_default_every_kind_of_type_is_tried(source):
    trials, _ = tuning.tune(source)
    assert [trial.type for trial in trials] == ["as it is", *tuning.CANDIDATES]


def test_its_own_type_and_what_does_not_fit_in_memory_are_left_out(source, monkeypatch):
    path = tuning.make(source.path, "Q8_0")
    small = resolve(path)
    (_, size), (_, larger) = plan(path, ["Q4_0", "BF16"])
    monkeypatch.setattr(tuning, "available", lambda: ((size + larger) / 2 + tuning.WORKING) / tuning.RESERVE)
    heard: list[str] = []
    trials, _ = tuning.tune(small, ["BF16", "Q8_0", "Q4_0", "Q4_0"], loss=10.0, on_progress=heard.append)
    assert [trial.type for trial in trials] == ["as it is", "Q4_0"]
    assert [line.split(":")[0] for line in heard[:2]] == ["BF16 is left out", "Q8_0 is left out"]
    before = tuning.tuned(small)
    monkeypatch.setattr(tuning, "available", lambda: 0)
    with pytest.raises(BadInput, match=r"no type to try.*memory"):
        tuning.tune(small, ["Q4_0", "Q8_0"])
    assert tuning.tuned(small) == before, "nothing was compared"


def test_a_file_that_does_not_tell_its_type_has_none_of_them(source, monkeypatch):
    found = tuning.read(source.path)
    untold = {key: value for key, value in found.metadata.items() if key != "general.file_type"}
    monkeypatch.setattr(tuning, "read", lambda path: dataclasses.replace(found, metadata=untold))
    wanted = ["Q8_0", "Q4_0+BF16"]
    assert tuning._worth_trying(source.path, wanted, print) == wanted


def test_a_type_that_this_model_cannot_have_is_left_out(tmp_path, monkeypatch):
    """Q1_0 goes in 128 numbers, and these rows have 64."""
    path = gguf_files.write_gguf(tmp_path / "m.gguf", shape=gguf_files.Shape(hidden=64))
    monkeypatch.setattr(tuning, "available", lambda: 2**40)
    heard: list[str] = []
    assert tuning._worth_trying(path, ["q1_0", "Q4_0"], heard.append) == ["Q4_0"]
    assert heard == ["Q1_0 is left out: llama.cpp cannot make it of this model"]


def test_the_file_of_a_type_that_lost_is_deleted_at_once(source, monkeypatch):
    rates = {"as it is": 2.0, "Q4_0": 4.0, "Q8_0": 3.0, "F16": 5.0}
    there = []

    def measured(source, path, name, tell):
        there.append(sorted(file.name.split(".")[-2] for file in tuning._folder(source.path).glob("*.*.gguf")))
        return tuning.Trial(name, path.stat().st_size, rates[name], {1: rates[name]}, 10.0)

    monkeypatch.setattr(tuning, "trial", measured)
    tuning.tune(source, ["Q4_0", "Q8_0", "F16"])
    assert there == [[], ["Q4_0"], ["Q4_0", "Q8_0"], ["F16", "Q4_0"]]
    assert [file.name for file in tuning._folder(source.path).glob("*.gguf")] == [used_file(source).name]


def test_a_type_that_loses_too_much_is_not_chosen(source, monkeypatch):
    def measured(source, path, name, tell):
        worse = {"as it is": (1.0, 10.0), "Q4_0": (9.0, 10.3), "Q8_0": (3.0, 10.1)}[name]
        return tuning.Trial(name, path.stat().st_size, worse[0], {1: worse[0]}, worse[1])

    monkeypatch.setattr(tuning, "trial", measured)
    assert tuning.tune(source, ["Q4_0", "Q8_0"], loss=0.02)[1].type == "Q8_0"
    assert tuning.tune(source, ["Q4_0", "Q8_0"], loss=0.05)[1].type == "Q4_0"
    assert tuning.tune(source, ["Q4_0", "Q8_0"], loss=0.0)[1].type == "as it is"


def test_an_interrupted_tuning_leaves_no_files_and_the_choice_as_it_was(source, monkeypatch):
    tuning.remember(source.path, "F16", tuning.make(source.path, "F16"), {})
    real, seen = tuning.trial, []

    def interrupted(source, path, name, tell):
        seen.append(name)
        if name == "Q8_0":
            raise KeyboardInterrupt
        return real(source, path, name, tell)

    monkeypatch.setattr(tuning, "trial", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(source, ["F16", "Q8_0"])
    assert seen == ["as it is", "F16", "Q8_0"]
    assert used_file(source).name.endswith(".F16.gguf")
    assert [path.name for path in tuning._folder(source.path).glob("*.gguf")] == [used_file(source).name]


def test_what_cannot_be_compared_is_said():
    trial = tuning.Trial("as it is", 1, 1.0, {1: 1.0}, float("nan"))
    with pytest.raises(BadInput, match="perplexity"):
        tuning.choose([trial, trial], 0.02)


def test_a_choice_can_be_undone_and_does_not_outlive_the_file(source):
    tuning.remember(source.path, "Q8_0", tuning.make(source.path, "Q8_0"), {})
    assert tuning.tuned(source).path != source.path
    assert hanpaca.load(source.path).identity != hanpaca.load(source.path, tuned=False).identity
    used_file(source).unlink()
    assert tuning.tuned(source) == source, "a file that somebody deleted is not missed"
    assert tuning.forget(source) and not tuning.forget(source)


def test_a_changed_file_is_not_taken_for_the_tuned_one(source):
    tuning.remember(source.path, "Q8_0", tuning.make(source.path, "Q8_0"), {})
    gguf_files.write_gguf(source.path, seed=1)
    assert tuning.tuned(source) == source


def test_the_packaged_model_gets_a_loss_free_type_by_itself(smollm2):
    with hanpaca.load("smollm2") as model, hanpaca.load("smollm2", tuned=False) as plain:
        assert model._engine is None
        assert str(model.source.path).endswith(".Q8_0.gguf") and plain.source.path == smollm2
        text = tuning.sample_text()
        first, *rest = model.engine.tokenize(text)
        ours = sum(model.engine.score([first], [rest])[0])
        theirs = sum(plain.engine.score([first], [rest])[0])
    assert abs(ours - theirs) / abs(theirs) < 0.005


def test_a_type_that_does_not_exist_is_refused_before_anything_is_measured(source):
    heard: list[str] = []
    with pytest.raises(BadInput, match="no quantization type"):
        tuning.tune(source, ["Q8_0", "Q9"], on_progress=heard.append)
    assert not heard


def test_only_gguf_files_are_tuned():
    with pytest.raises(BadInput, match="GGUF"):
        tuning.tune(resolve("http://127.0.0.1:9/v1#some"))


def test_speed_counts_tokens_of_all_requests(source):
    with hanpaca.load(source.path, threads=1) as model:
        speed = measure(model.engine, streams=(1, 3), prompt=64, new=8)
    assert speed.prompt == 64 and speed.prefill == pytest.approx(64 / speed.first_token)
    assert set(speed.decode) == {1, 3}
    with hanpaca.load(source.path) as model, pytest.raises(BadInput, match="at least one token"):
        measure(model.engine, prompt=0)
