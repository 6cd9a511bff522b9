"""The trial of AMX: the real child on a real file, and children that end as a broken build ends them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hanpaca.core.engines import llama_native, llama_probe
from hanpaca.core.gguf_header import read


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HANPACA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(llama_probe, "_found", [])


def pretend(monkeypatch: pytest.MonkeyPatch, code: str) -> list[Path]:
    """A build with AMX whose trial runs `code`; the list grows with each child."""
    tried: list[Path] = []

    def command(model: Path) -> list[str]:
        tried.append(model)
        return [sys.executable, "-c", code]

    build = SimpleNamespace(llama_print_system_info=lambda: b"CPU : AMX_INT8 = 1 |", __file__=llama_native.__file__)
    monkeypatch.setattr(llama_native, "library", lambda: build)
    monkeypatch.setattr(llama_probe, "_command", command)
    return tried


def again() -> bool:
    """Ask as a new process would."""
    llama_probe._found.clear()
    return llama_probe.amx_works()


def test_the_model_is_a_gguf_file_that_llama_cpp_computes(tmp_path: Path) -> None:
    file = tmp_path / "probe.gguf"
    file.write_bytes(llama_probe.small_model())
    info = read(file)
    assert info.metadata["general.architecture"] == "llama"
    assert info.metadata["llama.embedding_length"] == 64
    without = {name: value for name, value in os.environ.items() if name != "HANPACA_CACHE"}
    code = subprocess.run(llama_probe._command(file), capture_output=True, env=without, check=False).returncode
    assert code == 0 or (llama_probe.has_amx() and -code in llama_probe._DEADLY)


def test_a_file_that_is_no_model_is_not_taken_for_broken_amx(tmp_path: Path) -> None:
    file = tmp_path / "probe.gguf"
    file.write_bytes(b"GGUF")
    code = subprocess.run(llama_probe._command(file), capture_output=True, check=False).returncode
    assert code == 1


def test_a_build_without_amx_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = pretend(monkeypatch, "")
    plain = SimpleNamespace(llama_print_system_info=lambda: b"CPU : AVX2 = 1 |")
    monkeypatch.setattr(llama_native, "library", lambda: plain)
    assert llama_probe.amx_works()
    assert not tried


def test_what_works_is_tried_once_for_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = pretend(monkeypatch, "")
    assert llama_probe.amx_works() and llama_probe.amx_works() and again()
    assert len(tried) == 1
    assert not tried[0].exists(), "the model is left behind"


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("deadly", ["SIGSEGV", "SIGILL", "SIGABRT"])
def test_a_child_that_is_killed_by_its_kernels_is_remembered_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, deadly: str
) -> None:
    tried = pretend(monkeypatch, f"import os, signal; os.kill(os.getpid(), signal.{deadly})")
    with caplog.at_level(logging.WARNING):
        assert not llama_probe.amx_works()
        assert not llama_probe.amx_works()
    assert len(caplog.records) == 1
    assert llama_probe.FLAGS in caplog.text and "pip install --force-reinstall" in caplog.text
    assert not again()
    assert len(tried) == 1


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), signal.SIGINT)", "sys.exit(3)"])
def test_another_ending_is_safe_now_and_tried_again(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    first = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    tried = pretend(monkeypatch, first + ending)
    assert not llama_probe.amx_works()
    assert not again()
    assert len(tried) == 2


def test_another_build_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = pretend(monkeypatch, "")
    assert llama_probe.amx_works()
    other = SimpleNamespace(llama_print_system_info=lambda: b"AMX_INT8 = 1 | newer", __file__=llama_native.__file__)
    monkeypatch.setattr(llama_native, "library", lambda: other)
    assert again()
    assert len(tried) == 2


def test_a_damaged_record_and_a_cache_that_cannot_be_written_do_no_harm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = pretend(monkeypatch, "")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "amx.json").write_text("[1")
    assert llama_probe.amx_works()
    monkeypatch.setenv("HANPACA_CACHE", str(tmp_path / "cache" / "amx.json" / "no folder"))
    assert again() and again()
    assert len(tried) == 3


@pytest.mark.parametrize("works", [True, False])
def test_weights_are_laid_out_for_amx_only_where_it_works(
    monkeypatch: pytest.MonkeyPatch, smollm2: Path, works: bool
) -> None:
    L = llama_native.library()
    load, asked = L.llama_model_load_from_file, []

    def loads(path: bytes, params: Any) -> Any:
        asked.append(params.use_extra_bufts)
        return load(path, params)

    monkeypatch.setattr(L, "llama_model_load_from_file", loads)
    monkeypatch.setattr(llama_native, "amx_works", lambda: works)
    weights = llama_native.NativeWeights(smollm2)
    try:
        assert asked == [works]
        assert weights.size == 49_152
    finally:
        weights.free()
