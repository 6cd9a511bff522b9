"""Models behind the web UI's extension, and the prompt that its script makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf_files import Shape, byte_vocabulary, write_gguf

from hanpaca import load
from hanpaca.integrations.webui.prompting import Prompt

PUBLISHED = 55_296
"""Pieces of the second generation's vocabulary: by them a file without a template is known to be one of it."""


@pytest.fixture(scope="module")
def llama2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that takes the Llama-2 template, in a folder with a Chinese name and a space."""
    folder = tmp_path_factory.mktemp("模型 文件")
    missing = PUBLISHED - len(byte_vocabulary()[0])
    controls = tuple(f"<|unused{number}|>" for number in range(missing))
    return write_gguf(folder / "羊驼 2.gguf", controls=controls, shape=Shape(1, 32, 32, 2, 2), half=True, context=512)


@pytest.fixture(scope="module", autouse=True)
def kept(smollm2: Path) -> Iterator[None]:
    """Weights are shared in a process: with one model open, the others load in no time."""
    with load("smollm2") as model:
        _ = model.engine
        yield


def prompt_of(script: Any, text: str, state: dict[str, Any], **kwargs: Any) -> Prompt:
    given = {"history": state["history"], "_continue": False} | kwargs
    made = script.custom_generate_chat_prompt(text, state, **given)
    assert isinstance(made, Prompt)
    return made
