"""Small checkpoints with random weights in the PyTorch engine, for the modules that test it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import write_checkpoint

from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Completion, Engine, Request
from hanpaca.core.engines.transformers import TransformersEngine, TransformersOptions
from hanpaca.core.sampling import Sampling

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

GREEDY = Sampling(max_tokens=24, temperature=0, repetition_penalty=1.0)
CPU = TransformersOptions(device="cpu", dtype="float32")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A native window of 256, the real 55,296-piece tokenizer."""
    model = data / "tokenizers" / "chinese-llama2-55296.tokenizer.model"
    path = tmp_path_factory.mktemp("engine") / "model"
    return write_checkpoint(
        path, tokenizer_model=model, hidden=32, ffn=64, heads=2, kv_heads=1, context=256, spread=0.3
    )


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[TransformersEngine]:
    opened = TransformersEngine(folder, TransformersOptions(device="cpu", dtype="float32", context=700))
    yield opened
    opened.close()


def generate(engine: Engine, *prompts: list[int], sampling: Sampling = GREEDY) -> list[Completion]:
    return streams.complete(engine, [Request(prompt, sampling) for prompt in prompts])


def write_plain_tokenizer(folder: Path) -> None:
    """Byte-level, 500 tokens without merges."""
    from hanpaca.core.engines.torch_tokenizer import _byte_alphabet

    letters = list(_byte_alphabet().values())
    vocabulary = {text: i for i, text in enumerate(["<unk>", "<s>", "</s>", *letters, *(f"x{i}" for i in range(241))])}
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    table = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "pre_tokenizer": split, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(table))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
