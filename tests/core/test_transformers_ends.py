"""What the PyTorch engine refuses, and how its requests end: cancelled, late, refused, failed, closed."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from checkpoints import edit_json, write_checkpoint
from torch_engines import CPU, GREEDY, engine, folder, generate, one_thread, write_plain_tokenizer

from hanpaca.core.catalog import ModelSource
from hanpaca.core.engines import open_engine
from hanpaca.core.engines.base import Delta, Request
from hanpaca.core.engines.torch_decoder import TorchDecoder
from hanpaca.core.engines.transformers import TransformersEngine, TransformersOptions
from hanpaca.core.errors import (
    BadInput,
    BadModelFile,
    Busy,
    Closed,
    ContextOverflow,
    EngineFailure,
    TimedOut,
    UnsupportedFeature,
)
from hanpaca.core.sampling import Sampling

__all__ = ["engine", "folder", "one_thread"]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_what_cannot_work_is_refused_at_once(engine: TransformersEngine) -> None:
    for request, error in (
        (Request([], GREEDY), BadInput),
        (Request([1, 99_999], GREEDY), BadInput),
        (Request([1], Sampling()), BadInput),
        (Request([1], GREEDY.replace(logit_bias={99_999: 1.0})), BadInput),
        (Request([1] * 690, GREEDY), ContextOverflow),
        (Request([1], GREEDY.replace(json_schema={"not": {}})), UnsupportedFeature),
        (Request([1], GREEDY.replace(grammar="root ::= (")), BadInput),
    ):
        with pytest.raises(error):
            engine.submit(request, lambda _: None)
    with pytest.raises(UnsupportedFeature):
        engine.embed([[1]])
    with pytest.raises(EngineFailure):
        pickle.dumps(engine)


def test_options_are_checked(folder: Path) -> None:
    source = ModelSource("m", "transformers", folder)
    with pytest.raises(BadInput, match=r"'gpu_layers' is not an option.*dtype"):
        open_engine(source, {"gpu_layers": 1})
    for options in ({"dtype": "int3"}, {"quantization": "2bit"}, {"context": 0}, {"device": "abacus"}):
        with pytest.raises(BadInput):
            open_engine(source, options)


def test_another_architecture_is_refused(folder: Path, tmp_path: Path) -> None:
    edit_json(write_checkpoint(tmp_path / "m", vocabulary=320) / "config.json", model_type="gpt2")
    with pytest.raises(BadModelFile, match="gpt2"):
        TransformersEngine(tmp_path / "m", CPU)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    """transformers fills them with random numbers and warns."""
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(tmp_path / "m", vocabulary=500)
    write_plain_tokenizer(folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    for lost in ("lm_head.weight", name):
        save_file({n: tensor for n, tensor in weights.items() if n != lost}, file, {"format": "pt"})
        with pytest.raises(BadModelFile, match=f"lacks {lost}"):
            TransformersEngine(folder, CPU)
    save_file(weights | {name: weights[name][:, :16].contiguous()}, file, {"format": "pt"})
    with pytest.raises(BadModelFile, match=rf"{name} has the shape \[128, 16\]; config.json says \[128, 64\]"):
        TransformersEngine(folder, CPU)
    save_file(weights, file, {"format": "pt"})
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadModelFile, match="ends too early"):
        TransformersEngine(folder, CPU)


def test_a_split_gguf_is_refused(tmp_path: Path) -> None:
    from gguf_files import write_gguf

    for number in (1, 2):
        path = write_gguf(tmp_path / f"m-0000{number}-of-00002.gguf")
    with pytest.raises(UnsupportedFeature, match=r"split model.*llama\.cpp"):
        TransformersEngine(path, CPU)


def test_cancelling_stops_within_a_step_and_the_listener_hears_no_more(engine: TransformersEngine) -> None:
    heard: list[Delta | BaseException] = []
    first = threading.Event()

    def listen(event: Delta | BaseException) -> None:
        heard.append(event)
        first.set()

    handle = engine.submit(Request([1, 5, 9], GREEDY.replace(max_tokens=200)), listen)
    assert first.wait(30)
    handle.cancel()
    count = len(heard)
    time.sleep(0.3)
    assert len(heard) == count
    handle.cancel()
    assert generate(engine, [1, 5])[0].finish_reason == "length"


def test_a_timeout_ends_a_request(engine: TransformersEngine) -> None:
    with pytest.raises(TimedOut):
        generate(engine, [1, 5], sampling=GREEDY.replace(max_tokens=250, timeout=0.01))


def test_a_full_queue_says_busy(folder: Path) -> None:
    opened = TransformersEngine(folder, TransformersOptions(device="cpu", dtype="float32", running=1, queue=2))
    with pytest.raises(Busy):
        for _ in range(40):
            opened.submit(Request([1, 5], GREEDY.replace(max_tokens=200)), lambda _: None)
    opened.close()


def test_closing_ends_every_caller_and_frees_the_weights_with_the_last_engine(folder: Path) -> None:
    options = TransformersOptions(device="cpu", dtype="float32", running=3)
    first, second = TransformersEngine(folder, options), TransformersEngine(folder, options)
    assert first._shared is second._shared
    heard: list[Delta | BaseException] = []
    ended = threading.Event()

    def listen(event: Delta | BaseException) -> None:
        heard.append(event)
        if isinstance(event, BaseException):
            ended.set()

    first.submit(Request([1, 5], GREEDY.replace(max_tokens=250)), listen)
    first.close()
    assert ended.wait(30)
    assert isinstance(heard[-1], Closed)
    assert generate(second, [1, 5])[0].text
    with pytest.raises(Closed):
        first.submit(Request([1, 5], GREEDY), lambda _: None)
    second.close()
    second.close()
    assert not hasattr(second._shared, "loaded")


def test_a_failing_pass_fails_only_its_requests(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory: the test says so")

    with monkeypatch.context() as patch:
        patch.setattr(TorchDecoder, "_forward", broken)
        with pytest.raises(EngineFailure, match="out of memory"):
            generate(engine, [1, 5, 6])
    assert generate(engine, [1, 5, 6])[0].usage.completion_tokens == 24


def test_nothing_global_changes(folder: Path, tmp_path: Path) -> None:
    from transformers.utils import logging

    before = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
    shown = logging.is_progress_bar_enabled()
    opened = TransformersEngine(folder, CPU)
    generate(opened, [1, 5])
    opened.close()
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == before
    assert logging.is_progress_bar_enabled() == shown
