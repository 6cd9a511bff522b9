"""Importance matrices: the same numbers as PyTorch's, and less lost by them on real weights."""

from __future__ import annotations

import math
import signal
import threading
from pathlib import Path

import gguf_files
import numpy as np
import pytest
from llama_engines import open_engine

from hanpaca.core import tuning
from hanpaca.core.catalog import resolve
from hanpaca.core.engines.llama_native import NativeWeights
from hanpaca.core.engines.llama_watch import Watch
from hanpaca.core.errors import BadInput, BadModelFile
from hanpaca.core.evaluation import importance
from hanpaca.core.evaluation.importance import write_importance
from hanpaca.core.weights.imatrix import read_imatrix
from hanpaca.core.weights.quantize import quantize
from hanpaca.integrations.cli import main

TEXT = "the tall man and the old woman went in, 你好，助手。" * 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("importance")
    return gguf_files.write_gguf(folder / "m.gguf", shape=gguf_files.Shape(hidden=256, ffn=512), context=1024)


def test_it_is_the_mean_square_of_what_pytorch_feeds_each_matrix(model: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    found = read_imatrix(write_importance(model, tmp_path / "i.gguf", [TEXT], tokens=300, threads=1))
    weights = NativeWeights(model)
    (chunk,) = importance._chunks(weights, [TEXT], 300)
    weights.free()
    packed = transformers.GgufConfig(dequantize=True)
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        model.parent, gguf_file=model.name, quantization_config=packed, dtype=torch.float32
    )
    theirs = {}
    for name, module in reference.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: theirs.update({name: inputs[0][0].square().mean(0).numpy()})
            )
    with torch.inference_mode():
        reference(torch.tensor([chunk]))
    names = {"attn_q": "self_attn.q_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}  # fmt: skip
    for layer in range(2):
        for ours, name in names.items():
            np.testing.assert_allclose(
                found[f"blk.{layer}.{ours}.weight"], theirs[f"model.layers.{layer}.{name}"], rtol=2e-3, atol=1e-6
            )
    head = "output.weight" if "output.weight" in found else "token_embd.weight"
    np.testing.assert_allclose(found[head], theirs["lm_head"], rtol=2e-3, atol=1e-6)


def test_with_it_four_bits_lose_less_than_half(smollm2: Path, tmp_path: Path) -> None:
    imatrix = write_importance(smollm2, tmp_path / "i.gguf", tokens=2048)
    plain = quantize(smollm2, tmp_path / "plain.gguf", "Q4_0")
    better = quantize(smollm2, tmp_path / "better.gguf", "Q4_0", imatrix=imatrix)
    original, without, with_it = (log_perplexity(path) for path in (smollm2, plain, better))
    assert 0 < with_it - original < (without - original) / 2


def log_perplexity(path: Path) -> float:
    """Of a text that is not the one it was measured on."""
    engine = open_engine(path)
    try:
        first, *rest = engine.tokenize(tuning.sample_text())[:800]
        return -math.fsum(engine.score([first], [rest])[0]) / len(rest)
    finally:
        engine.close()


def test_the_smallest_types_can_be_made_with_it(model: Path, tmp_path: Path) -> None:
    imatrix = write_importance(model, tmp_path / "i.gguf", [TEXT], tokens=100)
    small = quantize(model, tmp_path / "small.gguf", "IQ2_XXS", imatrix=imatrix)
    assert 0 < small.stat().st_size < model.stat().st_size / 4


def test_texts_count_alike_and_are_read_throughout(model: Path) -> None:
    weights = NativeWeights(model)
    long, short = "the " * 5000, "in " * 40
    chunks = list(importance._chunks(weights, [long, short], 2000))
    assert [len(chunk) for chunk in chunks[:1]] == [importance.CHUNK]
    body = sum(len(chunk) - 1 for chunk in chunks)  # BOS before each
    assert body == 1000 + len(weights.tokenize(short, special=False))
    begin, end = (weights.tokenize(text, special=False) for text in ("A" * 600, "B" * 600))
    spread = [token for chunk in importance._chunks(weights, ["A" * 600 + "B" * 600], 1022) for token in chunk]
    assert begin[-1] in spread and end[-1] in spread
    weights.free()


@pytest.mark.parametrize("texts, tokens", [([""], 100), ([TEXT], 0), (["", ""], 100), (["a"], 100)])
def test_nothing_to_measure_on_is_said(model: Path, tmp_path: Path, texts: list[str], tokens: int) -> None:
    with pytest.raises(BadInput, match=r"token|text"):
        write_importance(model, tmp_path / "i.gguf", texts, tokens=tokens)
    assert not list(tmp_path.iterdir())


def test_what_fails_in_the_middle_is_raised_and_leaves_no_file(model: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert 0 < done < total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_importance(model, tmp_path / "i.gguf", [TEXT], on_progress=stop)
    assert not list(tmp_path.iterdir())


def test_an_error_in_what_listens_ends_the_pass_and_is_raised(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("in the callback")

    monkeypatch.setattr("hanpaca.core.engines.llama_watch.Watch._values", broken)
    with pytest.raises(ZeroDivisionError, match="in the callback"):
        write_importance(model, tmp_path / "i.gguf", [TEXT])


def test_ctrl_c_ends_it_and_leaves_no_file(smollm2: Path, tmp_path: Path) -> None:
    """It comes while llama.cpp computes, which calls Python now and then: what is raised there is lost."""
    me, passes = threading.get_ident(), []

    def interrupt(done: int, total: int) -> None:
        passes.append(done)
        if len(passes) == 2:
            threading.Timer(0.05, signal.pthread_kill, (me, signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        write_importance(smollm2, tmp_path / "i.gguf", tokens=20_000, on_progress=interrupt)
    assert 2 <= len(passes) < 60
    assert not list(tmp_path.iterdir())


def test_a_pass_that_skipped_something_is_noticed(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where llama.cpp computes a model of LLaMA's matrices in another way."""
    heard = Watch._values

    def skipping(watch: Watch, tensor: int) -> object:
        values = heard(watch, tensor)
        watch._kinds -= {"ffn_swiglu"}
        return values

    monkeypatch.setattr(Watch, "_values", skipping)
    with pytest.raises(BadInput, match="not computed as a LLaMA is: see ffn_swiglu-0"):
        write_importance(model, tmp_path / "i.gguf", [TEXT])


def test_an_importance_matrix_is_no_model(model: Path, tmp_path: Path) -> None:
    imatrix = write_importance(model, tmp_path / "i.gguf", [TEXT], tokens=50)
    with pytest.raises(BadInput, match="holds no model"):
        write_importance(imatrix, tmp_path / "j.gguf", [TEXT])
    with pytest.raises(BadModelFile, match="importance matrix"):
        quantize(model, tmp_path / "q.gguf", "Q4_0", imatrix=model)


def test_a_model_of_another_kind_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(importance.READERS, "ffn_norm", ("ffn_gate",))
    with pytest.raises(BadInput, match=r"ffn_up.*"):
        write_importance(model, tmp_path / "i.gguf", [TEXT])


def test_a_model_file_is_not_overwritten_by_another_kind_of_file(model: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(BadInput, match="exists"):
        write_importance(model, notes, [TEXT])
    before = model.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(before[:1000])
    for file in (model, cut):
        with pytest.raises(BadInput, match="exists and is no importance matrix"):
            write_importance(model, file, [TEXT])
    assert notes.read_text() == "mine" and model.read_bytes() == before and cut.stat().st_size == 1000


def test_tune_makes_small_types_with_it_and_deletes_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HANPACA_CACHE", str(tmp_path / "cache"))
    source = resolve(model)
    made = {}

    def trial(source: object, path: Path, name: str, tell: object) -> tuning.Trial:
        made[name] = path.read_bytes()
        return tuning.Trial(name, 1, 1.0, {1: 1.0}, 1.0)

    monkeypatch.setattr(tuning, "trial", trial)
    tuning.tune(source, ["Q4_0", "Q8_0"])
    assert made["Q4_0"] != quantize(model, tmp_path / "q4.gguf", "Q4_0").read_bytes()
    assert made["Q8_0"] == quantize(model, tmp_path / "q8.gguf", "Q8_0").read_bytes()
    assert not list((tmp_path / "cache").rglob("imatrix*"))


def test_the_command_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, out = tmp_path / "gb.txt", tmp_path / "i.gguf"
    text.write_bytes(("你好，助手。" * 50).encode("gb18030"))
    assert main(["imatrix", str(model), str(out), "--text", str(text), "--tokens", "50", "--threads", "1"]) == 0
    assert str(out) in capsys.readouterr().out
    assert main(["quantize", str(model), str(tmp_path / "q.gguf"), "q4_0", "--imatrix", str(out)]) == 0
    assert main(["imatrix", str(model), str(out), "--text", str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err
