"""The commands about models, as a newcomer meets them: what they print, and what they say to wrong input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runs import HANPACA, Run, gguf, refused, run
from hub_stub import Hub, serve

from hanpaca.core import tuning
from hanpaca.core.catalog import resolve

__all__ = ["gguf", "run"]

REPOSITORY = "hfl/chinese-alpaca-2-7b-gguf"


@pytest.fixture
def hub(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {f"ggml-model-{kind}.gguf": gguf.read_bytes() for kind in ("q4_k", "q8_0")}
    repositories = {REPOSITORY: files, "ChineseAlpacaGroup/chinese-alpaca-2-7b-gguf": files}
    with serve(Hub(repositories)) as stub:
        monkeypatch.setattr("hanpaca.core.hub_sources.MODELSCOPE", stub.url)
        yield stub


# -- rope --------------------------------------------------------------------------------------------------------


def test_rope_spells_a_plan_for_every_tool(run: Run) -> None:
    ran = run("rope", "chinese-alpaca-2-7b", "--context", "12288")
    assert ran.code == 0
    for part in (
        "adaptive NTK, alpha 5",
        "rope_freq_base = 51293.7873",
        "--rope-freq-base 51293.7873",
        "--max-model-len 12288",
    ):
        assert part in ran.out, ran.out
    told = json.loads(run("rope", "chinese-alpaca-2-7b", "--context", "12288", "--json").out)
    assert (told["alpha"], told["native_context"]) == (5.0, 4096)
    assert told["transformers"] == {"rope_type": "default", "rope_theta": told["base"]}
    assert told["llama_server"][:2] == ["--ctx-size", "12288"]


def test_rope_of_each_kind(run: Run, gguf: Path) -> None:
    assert "position interpolation ×4" in run("rope", "chinese-alpaca-2-7b-16k").out
    assert "YaRN ×16 from 4,096" in run("rope", "chinese-llama-2-7b-64k").out
    assert "as trained" in run("rope", gguf, "--context", "2048").out
    assert "alpha 2, " in run("rope", "smollm2", "--context", "20000", "--alpha", "2").out
    assert "YaRN ×2.5 from 8,192, without training" in run("rope", "smollm2", "--context", "20480").out
    ran = run("rope", "smollm2", "--context", "20480", "--extension", "ntk").out
    assert "adaptive NTK, alpha 4" in ran
    assert "load('smollm2', context=20480, extension=\"ntk\")" in ran


def test_rope_refuses_what_cannot_be(run: Run) -> None:
    refused(run("rope"), "model")
    refused(run("rope", "chinese-alpaca-7b"), "no model called", "chinese-alpaca-2-7b")
    refused(run("rope", "smollm2", "--context", "0"), "at least 1")
    refused(run("rope", "smollm2", "--context", "long"), "--context")
    refused(run("rope", "smollm2", "--context", "20000", "--alpha", "0.5"), "at least 1")
    refused(run("rope", "smollm2", "--alpha", "much"), "a number of at least 1, or auto")
    refused(run("rope", "smollm2", "--extension", "pi"), "Valid: auto, ntk, yarn")
    refused(run("rope", "./none.gguf"), "none.gguf")
    refused(run("rope", "http://localhost:8000/v1"), "server")


# -- models, verify ----------------------------------------------------------------------------------------------


def test_models_that_fit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanpaca.core.memory.available", lambda: 8 * 2**30)
    rows = json.loads(run("models", "--fit", "--json").out)["fits"]
    by_type = {row["type"]: row for row in rows if row["name"] == "chinese-alpaca-2-7b"}
    assert by_type["q4_k"]["fits"] is True
    assert by_type["q4_k"]["contexts"]["q8_0"] > by_type["q4_k"]["contexts"]["f16"] >= 4096
    assert by_type["f16"]["contexts"]["f16"] == 0
    text = run("models", "--fit", "--kind", "base").out
    assert "8.0 GiB of memory are free" in text
    assert "chinese-llama-2-7b" in text
    assert "alpaca" not in text


def test_a_model_comes_is_listed_checked_and_goes(run: Run, hub: Hub) -> None:
    assert "Nothing is downloaded yet" in run("models", "--cached").out
    for source in ("modelscope", "hub"):
        os.environ["HF_ENDPOINT"] = hub.url  # undone by the fixture's delenv
        ran = run("pull", "chinese-alpaca-2-7b:Q4_K_M", "--from", source)
        assert ran.code == 0, ran.err
        assert "ggml-model-q4_k.gguf" in ran.out
    (model,) = json.loads(run("models", "--cached", "--json").out)["models"]
    assert (model["name"], model["complete"]) == ("chinese-alpaca-2-7b:q4_k", True)
    assert "chinese-alpaca-2-7b:q4_k" in run("models", "--cached").out
    report = json.loads(run("verify", "chinese-alpaca-2-7b:q4_k", "--json").out)
    assert report["facts"]["checksum"] == "1 of 1 files right"
    assert not report["ok"]  # a tiny stand-in under a 7B model's name
    by_id = json.loads(run("verify", REPOSITORY, "--json").out)
    assert by_id == report
    refused(run("rm", "chinese-alpaca-2-13b"), "not among the downloaded", "chinese-alpaca-2-7b:q4_k")
    assert "deleted" in run("rm", "chinese-alpaca-2-7b:Q4_K_M").out
    assert json.loads(run("models", "--cached", "--json").out)["models"] == []


def test_pull_from_a_folder(run: Run, tmp_path: Path, gguf: Path) -> None:
    (tmp_path / "stick").mkdir()
    shutil.copyfile(gguf, tmp_path / "stick" / "ggml-model-q4_k.gguf")
    assert run("pull", "chinese-alpaca-2-7b:q4_k", "--from", "stick").code == 0
    refused(run("pull", "chinese-alpaca-2-7b:q8_0", "--from", "stick"), "no q8_0", "q4_k")
    refused(run("pull", "chinese-alpaca-2-7b", "--from", "nowhere"), "no folder nowhere", "modelscope")


def test_pull_refuses_what_cannot_be(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(run("pull", "chinese-alpaca-2-7b:Q9"), "not a published quantization", "q4_k")
    refused(run("pull", "chinese-alpca-2-7b"), "Near names: chinese-alpaca-2-7b")
    refused(run("pull", "smollm2"), "nothing to pull")
    refused(run("pull", "chinese-alpaca-2-1.3b", "--what", "lora"), "no LoRA adapter")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused(run("pull", "chinese-alpaca-2-7b"), "could not be reached", "HF_ENDPOINT", "--from modelscope", code=1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(run("pull", "chinese-alpaca-2-7b"), "HF_HUB_OFFLINE", code=1)


@pytest.mark.usefixtures("smollm2")
def test_verify_looks_into_a_packaged_models_adapter(run: Run) -> None:
    report = json.loads(run("verify", "smollm2-reader", "--json").out)
    (adapter,) = report["adapters"]
    assert report["ok"] and report["facts"]["catalog"] == "smollm2 (chat)"
    assert adapter["ok"] and adapter["facts"]["format"] == "GGUF adapter"
    assert adapter["path"] in run("verify", "smollm2-reader").out


def test_verify_says_what_a_file_is(run: Run, gguf: Path, tmp_path: Path) -> None:
    ran = run("verify", gguf)
    assert ran.code == 0
    assert "304 pieces" in ran.out
    assert "No problem was found." in ran.out
    (tmp_path / "cut.gguf").write_bytes(gguf.read_bytes()[:-1000])
    refused(run("verify", "cut.gguf"), "truncated", code=1)
    refused(run("verify", "nothing.gguf"), "no file or folder nothing.gguf")
    refused(run("verify", "chinese-alpaca-2-7b"), "hanpaca pull")
    refused(run("verify", "some/model"), "hanpaca pull some/model")
    refused(run("verify", "http://localhost:8000/v1"), "no files here")


# -- downloads that are cut, bench, tune ---------------------------------------------------------------------------


def test_ctrl_c_keeps_what_was_downloaded(hub: Hub, tmp_path: Path, gguf: Path) -> None:
    hub.stalled = threading.Event()
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HANPACA_CACHE": str(tmp_path / "cache")}
    words = [HANPACA, "pull", "chinese-alpaca-2-7b:q4_k"]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as child:
        assert hub.stalled.wait(20)
        part = tmp_path / "cache" / REPOSITORY.replace("/", "--")
        while not any(file.stat().st_size for file in part.glob("*.part")):
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert (child.returncode, errors) == (130, "hanpaca: stopped.\n")
    hub.stalled = None
    hub.requests.clear()
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
    (asked,) = hub.files_asked()
    assert int(asked["Range"].removeprefix("bytes=").rstrip("-")) > 0
    assert (part / "ggml-model-q4_k.gguf").read_bytes() == gguf.read_bytes()


def test_bench_measures_what_load_would_use(run: Run, gguf: Path) -> None:
    ran = run("bench", gguf, "--prompt", 16, "--json")
    found = json.loads(ran.out)
    assert found["file"] == str(gguf) and set(found["decode"]) == {"1", "4", "16"} and found["prefill"] > 0
    assert f"measuring {gguf.name}" in ran.err


def test_tune_keeps_a_type_within_the_loss_that_was_allowed(run: Run, gguf: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(gguf, tmp_path / "mine.gguf"))
    ran = run("tune", model, "--types", "Q8_0", "--loss", "5%", "--json")
    found = json.loads(ran.out)
    assert ran.code == 0 and [trial["type"] for trial in found["trials"]] == ["as it is", "Q8_0"]
    chosen = next(trial for trial in found["trials"] if trial["type"] == found["chosen"])
    assert chosen["perplexity"] <= found["trials"][0]["perplexity"] * 1.05
    used = tuning.tuned(resolve(model)).path
    assert used is not None and used.name.endswith(".Q8_0.gguf") == (found["chosen"] == "Q8_0")
    assert "as it is again" in run("tune", model, "--undo").out
    assert tuning.tuned(resolve(model)).path == model


@pytest.mark.parametrize("loss", ["much", "-3%", "nan", "%", "inf"])
def test_tune_refuses_a_loss_that_is_none(run: Run, gguf: Path, loss: str) -> None:
    ran = run("tune", gguf, f"--loss={loss}")
    assert ran.code == 2 and "loss" in ran.err and "Such as" in ran.err
