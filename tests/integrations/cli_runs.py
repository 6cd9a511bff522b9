"""Commands run in an empty folder with an empty cache, and small files to run them on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from checkpoints import write_checkpoint
from gguf_files import CHATML, Shape, write_gguf

from hanpaca.integrations.cli import main

HANPACA = str(Path(sys.executable).with_name("hanpaca"))


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty folder, with an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HANPACA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HANPACA_MODEL"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str | Path) -> Ran:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("cli") / "m.gguf", shape=Shape(hidden=256, ffn=256), chat_template=CHATML)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("cli") / "base",
        tokenizer_model=data / "tokenizers/llama2-32000.tokenizer.model",
        vocabulary=32_000,
        hidden=256,
        ffn=256,
        layers=1,
    )


def refused(ran: Ran, *parts: str, code: int = 2) -> None:
    """A message that says these things, no traceback, and the exit code for wrong input."""
    assert ran.code == code, ran
    assert "Traceback" not in ran.err + ran.out
    for part in parts:
        assert part in ran.err, ran.err
