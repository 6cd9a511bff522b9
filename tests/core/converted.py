"""A small checkpoint to convert, and copies of it to break."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkpoints import write_checkpoint

from hanpaca.core.weights.convert import convert


@pytest.fixture(scope="module")
def tokenizer_model(data: Path) -> Path:
    return data / "tokenizers" / "chinese-llama2-55296.tokenizer.model"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tokenizer_model: Path) -> Path:
    """A checkpoint in three safetensors shards; tests copy it before they break it."""
    folder = tmp_path_factory.mktemp("small") / "model"
    return write_checkpoint(folder, tokenizer_model=tokenizer_model, hidden=64, shard="10MB")


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "copy"))


def refused(folder: Path, tmp_path: Path, error: type[Exception], match: str, type: str = "f16") -> None:
    with pytest.raises(error, match=match):
        convert(folder, tmp_path / "out" / "m.gguf", type)
    assert not [path for path in tmp_path.glob("out/*") if path.is_file()]
