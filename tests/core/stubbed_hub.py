"""A hub on loopback with a few published repositories, and an empty cache to fetch into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf_files import write_gguf
from hub_stub import Hub, serve

NAME, REPOSITORY = "chinese-alpaca-2-7b", "hfl/chinese-alpaca-2-7b-gguf"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("stub") / "m.gguf").read_bytes()


@pytest.fixture
def hub(gguf: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HANPACA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    files = {f"ggml-model-{kind}.gguf": gguf for kind in ("q2_k", "q4_k", "q8_0", "f16")}
    full = {"config.json": b'{"vocab_size": 55296}', "tokenizer.model": b"pieces", "README.md": b"# hello"}
    weights = {"model-00001-of-00002.safetensors": b"a" * 1000, "model-00002-of-00002.safetensors": b"b" * 500}
    repositories = {
        REPOSITORY: {"README.md": b"# hello", **files},
        "hfl/chinese-alpaca-2-7b": full | weights | {"pytorch_model-00001-of-00001.bin": b"pickle"},
        "hfl/chinese-alpaca-2-lora-7b": {"adapter_config.json": b"{}", "adapter_model.safetensors": b"lora"},
        "ChineseAlpacaGroup/chinese-alpaca-2-7b-gguf": files,
        "someone/mixed-GGUF": {f"Mixed-7B.{kind}.gguf": gguf for kind in ("Q3_K_M", "Q8_0", "F16")},
    }
    with serve(Hub(repositories)) as stub:
        monkeypatch.setenv("HF_ENDPOINT", stub.url)
        yield stub
