"""Quantization in a child process, and sizes that are known before it runs."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from checkpoints import write_checkpoint
from gguf_files import Shape as Sizes
from gguf_files import write_gguf

from hanpaca.core import gguf_header
from hanpaca.core.errors import BadInput, BadModelFile, EngineFailure, ModelNotFound
from hanpaca.core.evaluation.importance import write_importance
from hanpaca.core.weights.convert import convert
from hanpaca.core.weights.imatrix import read_imatrix
from hanpaca.core.weights.llama import Shape
from hanpaca.core.weights.quantize import ALIASES, TYPES, plan, quantize, type_name

GIB = 2**30
CHINESE_7B = Shape(layers=32, hidden=4096, ffn=11008, heads=32, kv_heads=32, vocabulary=55_296, head_dim=128)
SLOW_TO_START = {"IQ3_XXS", "IQ1_M", "IQ1_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ3_M", "IQ3_S"}
NEED_IMATRIX = {"IQ1_M", "IQ1_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ3_XS", "IQ3_XXS", "Q2_K_S"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An F32 model whose rows every block size divides."""
    folder = tmp_path_factory.mktemp("source")
    return write_gguf(folder / "model.gguf", shape=Sizes(hidden=256, ffn=512))


@pytest.fixture(scope="module")
def importance(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An importance matrix in the older format: made-up numbers for every tensor."""
    rng = np.random.default_rng(0)
    rows = b""
    tensors = [tensor for tensor in gguf_header.read(source).tensors if len(tensor.shape) == 2]
    for tensor in tensors:
        name = tensor.name.encode()
        values = rng.uniform(0.5, 2, tensor.shape[0]).astype(np.float32) * 7
        rows += struct.pack("<i", len(name)) + name + struct.pack("<ii", 7, values.size) + values.tobytes()
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.dat"
    path.write_bytes(struct.pack("<i", len(tensors)) + rows)
    return path


def test_the_plan_for_7b_equals_the_published_table() -> None:
    found = dict(plan(CHINESE_7B))
    published = {
        "F16": 12.91, "Q3_K_M": 3.18, "Q4_0": 3.69, "Q4_1": 4.08, "Q4_K_M": 3.92, "Q5_0": 4.47, "Q5_1": 4.86,
        "Q5_K_M": 4.59, "Q6_K": 5.30, "Q8_0": 6.81,
    }  # fmt: skip
    for name, size in published.items():
        assert found[name] / GIB == pytest.approx(size, rel=0.01), name
    real = {"F16": 13_860_294_080, "Q4_0": 3_958_263_264, "Q6_K": 5_686_250_976, "Q8_0": 7_364_365_792}
    for name, nbytes in real.items():
        assert found[name] == pytest.approx(nbytes, rel=0.001), name


def test_a_plan_leaves_out_what_the_model_cannot_be_made_into() -> None:
    """Rows of 576 numbers, as in SmolLM2: no multiple of 128 (Q1_0), nor of the 256 of most types, which fall back."""
    narrow = Shape(layers=2, hidden=576, ffn=1536, heads=9, kv_heads=3, vocabulary=512, head_dim=64, tied=True)
    found = dict(plan(narrow))
    assert "Q1_0" not in found and {"F16", "Q4_0", "Q4_K_M", "IQ4_NL", "Q2_K"} <= found.keys()
    assert plan(narrow, ["Q1_0", "Q4_0"]) == [("Q4_0", found["Q4_0"])]
    with pytest.raises(EngineFailure, match="fallback"):
        plan(narrow, ["Q1_0"])


def test_the_types_are_llama_cpps() -> None:
    import llama_cpp

    prefixes = ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_")
    theirs = {
        name.removeprefix(prefix): getattr(llama_cpp, name)
        for prefix in prefixes
        for name in dir(llama_cpp)
        if name.startswith(prefix)
    }
    assert theirs.pop("NVFP4", None) in (None, 39)  # llama.cpp names it, and its quantizer refuses it
    assert theirs == TYPES


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW_TO_START)) for name in sorted(TYPES)]
)
def test_every_type_is_made_and_as_large_as_planned(source: Path, importance: Path, tmp_path: Path, name: str) -> None:
    out = quantize(source, tmp_path / "out.gguf", name, threads=2, imatrix=importance if name in NEED_IMATRIX else None)
    planned = dict(plan(source, [name]))[name]
    slack = 200 if name in NEED_IMATRIX else 64  # two small metadata fields are added
    assert abs(out.stat().st_size - planned) <= slack
    assert gguf_header.read(out).metadata["general.file_type"] == TYPES[name]


def test_a_checkpoints_plan_equals_the_real_files(tmp_path: Path, data: Path) -> None:
    pytest.importorskip("torch")
    model = data / "tokenizers" / "chinese-llama2-55296.tokenizer.model"
    folder = write_checkpoint(tmp_path / "model", tokenizer_model=model, hidden=256, ffn=512)
    planned = dict(plan(folder, ["F16", "Q4_0", "Q4_K_M", "Q8_0"]))
    half = convert(folder, tmp_path / "f16.gguf", "f16")
    assert half.stat().st_size == planned.pop("F16")
    for name, size in planned.items():
        assert quantize(half, tmp_path / "out.gguf", name).stat().st_size == size, name


def test_names_of_published_files() -> None:
    assert [type_name(text) for text in ("q4_k", "Q4_K_M", " q6_k ", "iq4_xs")] == [
        "Q4_K_M",
        "Q4_K_M",
        "Q6_K",
        "IQ4_XS",
    ]
    assert set(ALIASES.values()) <= set(TYPES)
    with pytest.raises(BadInput, match=r"Did you mean Q4_K_M\?.*F16, BF16"):
        type_name("Q4_KM")


@pytest.mark.parametrize("tied", [False, True])
def test_the_output_matrix_may_have_a_type_of_its_own(tmp_path: Path, tied: bool) -> None:
    source = write_gguf(tmp_path / "model.gguf", shape=Sizes(hidden=256, ffn=512), tied=tied)
    out = quantize(source, tmp_path / "out.gguf", " q4_0+bf16")
    types = {tensor.name: tensor.type for tensor in gguf_header.read(out).tensors}
    assert types["token_embd.weight" if tied else "output.weight"] == "BF16" and types["blk.0.ffn_up.weight"] == "Q4_0"
    assert tied or types["token_embd.weight"] == "Q4_0"
    assert abs(out.stat().st_size - dict(plan(source, ["Q4_0+BF16"]))["Q4_0+BF16"]) <= 64
    for wrong in ("Q4_0+Q4_K", "Q4_0+", "+BF16"):
        with pytest.raises(BadInput):
            type_name(wrong)


def test_a_quantized_model_still_speaks_alike(source: Path, tmp_path: Path) -> None:
    from native_logits import native

    tokens = list(range(3, 60))
    with native(source, 64) as model:
        before = model.logits(tokens)
    with native(quantize(source, tmp_path / "out.gguf", "Q8_0"), 64) as model:
        after = model.logits(tokens)
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()


def test_progress_counts_bytes_of_the_source(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    quantize(source, tmp_path / "out.gguf", "Q4_0", lambda done, total: seen.append((done, total)))
    total = sum(tensor.size for tensor in gguf_header.read(source).tensors)
    assert len(seen) == len(gguf_header.read(source).tensors) + 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (total, total)


def children() -> list[psutil.Process]:
    return [
        child for child in psutil.Process().children(recursive=True) if "quantize_child" in " ".join(child.cmdline())
    ]


def test_an_interruption_ends_the_child_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert children()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(source, tmp_path / "out" / "m.gguf", "Q4_K_M", stop)
    assert not children()
    assert not list((tmp_path / "out").iterdir())


def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    """Killed outright, the parent cannot clean up: what is left must not look complete, and nobody goes on writing."""
    source = write_gguf(tmp_path / "m.gguf", shape=Sizes(layers=12, hidden=512, ffn=2048))
    code = (
        "import sys; from pathlib import Path; from hanpaca.core.weights.quantize import quantize\n"
        "quantize(Path(sys.argv[1]), Path(sys.argv[2]), 'Q4_K_M', lambda *_: print('.', flush=True), threads=1)"
    )
    target = tmp_path / "out" / "q.gguf"
    with subprocess.Popen([sys.executable, "-c", code, source, target], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        for _ in range(6):
            assert parent.stdout.readline() == b".\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.send_signal(signal.SIGKILL)
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone
    assert not target.exists()
    assert all(path.name.startswith(".") and path.suffix == ".partial" for path in target.parent.iterdir())


# -- importance matrices -----------------------------------------------------------------------------------------


def test_a_type_that_needs_an_imatrix_says_so(source: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(BadInput, match="importance matrix"):
        quantize(source, tmp_path / "out" / "m.gguf", "IQ2_XXS", lambda done, total: seen.append(done))
    assert not seen, "it is said before the work begins"
    assert not list((tmp_path / "out").iterdir())


def test_both_formats_say_the_same(importance: Path, tmp_path: Path) -> None:
    import gguf

    older = read_imatrix(importance)
    writer = gguf.GGUFWriter(tmp_path / "imatrix.gguf", "imatrix")
    writer.add_type("imatrix")
    for name, values in older.items():
        writer.add_tensor(f"{name}.in_sum2", values.reshape(1, -1) * 5)
        writer.add_tensor(f"{name}.counts", np.full((1, 1), 5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    newer = read_imatrix(tmp_path / "imatrix.gguf")
    assert newer.keys() == older.keys()
    for name, values in older.items():
        np.testing.assert_allclose(newer[name], values, rtol=1e-6)


def test_an_imatrix_changes_the_result(source: Path, importance: Path, tmp_path: Path) -> None:
    with_it = quantize(source, tmp_path / "with.gguf", "Q4_K_S", imatrix=importance).read_bytes()
    assert with_it[-100_000:] != quantize(source, tmp_path / "without.gguf", "Q4_K_S").read_bytes()[-100_000:]


def test_another_file_is_no_imatrix(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match="importance matrix"):
        read_imatrix(source)
    (tmp_path / "x.dat").write_bytes(b"\x01\x00\x00\x00\xff")
    with pytest.raises(BadModelFile, match="importance matrix"):
        read_imatrix(tmp_path / "x.dat")


# -- refusals ----------------------------------------------------------------------------------------------------


def test_too_little_disk_is_said_before_writing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda where: shutil._ntuple_diskusage(10**9, 10**9, 10**5))
    with pytest.raises(BadInput, match="Not enough disk space"):
        quantize(source, tmp_path / "out" / "m.gguf", "Q8_0")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("threads", [-3, 0, 1025, 10**11])
def test_a_number_of_threads_that_cannot_be_is_refused(source: Path, tmp_path: Path, threads: int) -> None:
    with pytest.raises(BadInput, match="threads must be 1 to 1024"):
        quantize(source, tmp_path / "m.gguf", "Q8_0", threads=threads)
    with pytest.raises(BadInput, match="threads must be 1 to 1024"):
        write_importance(source, tmp_path / "i.gguf", threads=threads)


def test_paths_may_be_texts(source: Path, importance: Path, tmp_path: Path) -> None:
    texts: list[Any] = [str(path) for path in (source, tmp_path / "m.gguf", importance)]
    out = quantize(texts[0], texts[1], "Q4_0", imatrix=texts[2])
    assert plan(texts[0], ["Q4_0"])[0][1] == pytest.approx(out.stat().st_size, abs=300)


def test_a_broken_source_is_refused(source: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(source.read_bytes()[:-4096])
    with pytest.raises(BadModelFile, match="truncated"):
        quantize(cut, tmp_path / "m.gguf", "Q8_0")
    with pytest.raises(ModelNotFound):
        quantize(tmp_path / "none.gguf", tmp_path / "m.gguf", "Q8_0")


def test_llama_cpps_own_reason_is_told(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "no-such-architecture")
    writer.add_tensor("x.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(EngineFailure, match="no-such-architecture"):
        quantize(tmp_path / "odd.gguf", tmp_path / "m.gguf", "Q8_0")
    assert not (tmp_path / "m.gguf").exists()


def test_the_input_is_never_the_output(source: Path) -> None:
    before = source.stat().st_size
    with pytest.raises(BadInput, match="output is the input"):
        quantize(source, source, "Q8_0")
    assert source.stat().st_size == before


def test_the_log_of_this_process_stays_as_it_was(source: Path, tmp_path: Path) -> None:
    import llama_cpp

    def callback() -> int | None:
        held, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
        llama_cpp.llama_log_get(ctypes.byref(held), ctypes.byref(data))
        return ctypes.cast(held, ctypes.c_void_p).value

    before, environment = callback(), dict(os.environ)
    quantize(source, tmp_path / "m.gguf", "Q8_0")
    assert (callback(), dict(os.environ)) == (before, environment)
