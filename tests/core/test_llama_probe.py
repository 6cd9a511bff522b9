"""The trial of AMX: the real child on a real file, and children that end as a broken build ends them."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable
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


DIES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
OK = "print('ok', end='')"


def build(folder: Path, about: bytes = b"CPU : AMX_INT8 = 1 |") -> Any:
    """A llama.cpp whose library lies in a folder."""
    (folder / "lib").mkdir(exist_ok=True)
    (folder / "lib" / "libggml-cpu.so").write_bytes(b"kernels")
    return SimpleNamespace(llama_print_system_info=lambda: about, __file__=str(folder / "x.py"), __version__="0.3.36")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], list[Path]]:
    """A build with AMX whose children run the one code with layouts for the processor and the other without; the list
    grows with each child."""

    def chosen(with_layouts: str, without: str) -> list[Path]:
        tried: list[Path] = []

        def command(model: Path, laid_out: bool) -> list[str]:
            tried.append(model)
            return [sys.executable, "-c", with_layouts if laid_out else without]

        made = build(tmp_path)
        monkeypatch.delenv("LLAMA_CPP_LIB_PATH", raising=False)
        monkeypatch.setattr(llama_native, "library", lambda: made)
        monkeypatch.setattr(llama_probe, "_command", command)
        return tried

    return chosen


Pretend = Callable[[str, str], list[Path]]


def again() -> bool:
    """Ask as a new process would."""
    llama_probe._found.clear()
    return llama_probe.amx_works()


def test_the_model_is_of_the_type_that_amx_computes_and_llama_cpp_computes_it(tmp_path: Path) -> None:
    file = tmp_path / "probe.gguf"
    file.write_bytes(llama_probe.small_model())
    info = read(file)
    assert info.metadata["general.architecture"] == "llama"
    types = {tensor.name: tensor.type for tensor in info.tensors}
    assert {types[name] for name in types if "norm" not in name} == {"Q8_0"}
    assert len(types) == 12
    assert llama_probe._computes(file, laid_out=False)
    if not llama_probe.has_amx():
        assert llama_probe._computes(file, laid_out=True)


def test_a_file_that_is_no_model_does_not_compute(tmp_path: Path) -> None:
    file = tmp_path / "probe.gguf"
    file.write_bytes(b"GGUF")
    assert not llama_probe._computes(file, laid_out=False)


def test_modules_of_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("llama_cpp", "json", "struct"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    file = tmp_path / "probe.gguf"
    file.write_bytes(llama_probe.small_model())
    assert llama_probe._computes(file, laid_out=False)
    assert not (tmp_path / "ran").exists()


def test_a_build_without_amx_starts_no_process(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = pretend(DIES, DIES)
    plain = build(tmp_path, b"CPU : AVX2 = 1 |")
    monkeypatch.setattr(llama_native, "library", lambda: plain)
    assert llama_probe.amx_works()
    assert not tried


def test_what_works_is_tried_once_for_all_processes(pretend: Pretend) -> None:
    tried = pretend(OK, DIES)
    assert llama_probe.amx_works() and llama_probe.amx_works() and again()
    assert len(tried) == 1
    assert not tried[0].exists(), "the model is left behind"


@pytest.mark.parametrize("ending", [DIES, "import os; os.abort()", "", "print('no')"])
def test_a_build_that_computes_only_without_is_remembered_and_told(
    pretend: Pretend, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    tried = pretend(ending, OK)
    with caplog.at_level(logging.WARNING):
        assert not llama_probe.amx_works()
        assert not llama_probe.amx_works()
    assert len(caplog.records) == 1
    assert llama_probe.FLAGS in caplog.text and "llama-cpp-python==0.3.36" in caplog.text
    assert not again()
    assert len(tried) == 2


def test_a_trial_that_fails_is_safe_now_blames_no_compiler_and_is_made_again(
    pretend: Pretend, caplog: pytest.LogCaptureFixture
) -> None:
    tried = pretend(DIES, DIES)
    with caplog.at_level(logging.WARNING):
        assert not llama_probe.amx_works()
    assert "could not be tried" in caplog.text and "GCC" not in caplog.text
    assert not again()
    assert len(tried) == 4


def test_a_trial_that_hangs_ends(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend("import time; time.sleep(60)", OK)
    monkeypatch.setattr(llama_probe, "_TIMEOUT", 0.3)
    assert not llama_probe.amx_works()


def test_another_build_is_tried_again(pretend: Pretend, tmp_path: Path) -> None:
    tried = pretend(OK, DIES)
    assert llama_probe.amx_works()
    (tmp_path / "lib" / "libggml-cpu.so").write_bytes(b"compiled again")
    assert again()
    assert len(tried) == 2


def test_a_damaged_record_and_a_cache_that_cannot_be_written_do_no_harm(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = pretend(OK, DIES)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "amx.json").write_text("[1")
    assert llama_probe.amx_works()
    monkeypatch.setenv("HANPACA_CACHE", str(tmp_path / "cache" / "amx.json" / "no folder"))
    assert again() and again()
    (tmp_path / "other" / "amx.json").mkdir(parents=True)
    monkeypatch.setenv("HANPACA_CACHE", str(tmp_path / "other"))
    assert again()
    assert len(tried) == 4


@pytest.mark.parametrize("program", [None, "", "/no/such/python"])
def test_a_python_that_does_not_know_its_program_goes_without(monkeypatch: pytest.MonkeyPatch, program: Any) -> None:
    monkeypatch.setattr(llama_probe, "has_amx", lambda: True)
    monkeypatch.setattr(sys, "executable", program)
    assert not llama_probe.amx_works()


def test_no_room_for_temporary_files_goes_without(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(OK, OK)
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    assert not llama_probe.amx_works()


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
