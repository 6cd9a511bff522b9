"""The LlamaIndex models that tests ask: SmolLM2, and files of F32 weights whose answers are exact."""

from pathlib import Path
from typing import Any

from llama_index.core.llms import ChatMessage
from loops import EXACT
from pydantic import BaseModel, Field

from hanpaca.integrations.llama_index import HanpacaLLM

FRANCE = [ChatMessage("What is the capital of France? Answer in one word.")]


def llm(**options: Any) -> HanpacaLLM:
    usual = {"model": "smollm2", "temperature": 0, "max_tokens": 24, "load_options": {"threads": 1}}
    return HanpacaLLM(**{**usual, **options})


def exact(file: Path, **options: Any) -> HanpacaLLM:
    return llm(**{"model": str(file), "load_options": EXACT, **options})


def plain(message: ChatMessage) -> dict[str, str]:
    return {"role": message.role.value, "content": message.content or ""}


class Animal(BaseModel):
    """An animal."""

    name: str
    legs: int


class Story(BaseModel):
    """A story."""

    text: str = Field(min_length=900)
