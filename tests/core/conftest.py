"""Tiny models with the real tokenizers, made once per run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf_files import Shape, write_gguf
from llama_engines import open_engine

from hanpaca.core.engines.llama_cpp import LlamaCppEngine, LlamaCppOptions
from hanpaca.core.gguf_header import read, rope_of

THIN = Shape(layers=1, hidden=32, ffn=32, heads=2, kv_heads=2)


@pytest.fixture(scope="session")
def chinese_model(data: Path) -> Path:
    """The 55,296-piece tokenizer of the second generation."""
    return data / "tokenizers/chinese-llama2-55296.tokenizer.model"


@pytest.fixture(scope="session")
def llama_model(data: Path) -> Path:
    """LLaMA's own tokenizer, 32,000 pieces."""
    return data / "tokenizers/llama2-32000.tokenizer.model"


@pytest.fixture(scope="session")
def chinese_gguf(chinese_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "zh.gguf", tokenizer_model=chinese_model, shape=THIN, half=True)


@pytest.fixture(scope="session")
def llama_gguf(llama_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "en.gguf", tokenizer_model=llama_model, shape=THIN, half=True)


def open_gguf(path: Path) -> LlamaCppEngine:
    return LlamaCppEngine(path, rope_of(read(path)), LlamaCppOptions(context=512))


@pytest.fixture(scope="session")
def chinese(chinese_gguf: Path) -> Iterator[LlamaCppEngine]:
    """llama.cpp over the 55,296-piece tokenizer."""
    engine = open_gguf(chinese_gguf)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def llama(llama_gguf: Path) -> Iterator[LlamaCppEngine]:
    """llama.cpp over LLaMA's own tokenizer."""
    engine = open_gguf(llama_gguf)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random F32 weights, a window of 1,024 tokens."""
    return write_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", context=1024)


@pytest.fixture
def tiny(tiny_file: Path) -> Iterator[LlamaCppEngine]:
    """F32 weights, F32 cache, no flash attention: results do not depend on what runs beside."""
    engine = open_engine(tiny_file, kv_type="f32", flash_attention=False, threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def long_smol(smollm2: Path) -> Iterator[LlamaCppEngine]:
    """SmolLM2 with the engine's own choice of a context."""
    engine = open_engine(smollm2)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def smol(smollm2: Path) -> Iterator[LlamaCppEngine]:
    engine = open_gguf(smollm2)
    yield engine
    engine.close()
