"""What answering takes and gives: the part of a model that it uses, and an answer with all that belongs to it.

Knows no library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..core.chat import Message
from ..core.engines.base import Completion, Delta, Usage
from ..core.sampling import Sampling
from .citations import Citation
from .hits import Hit
from .prompts import wording


class ChatModel(Protocol):
    """The part of `hanpaca.Model` that answering uses."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def reads(self) -> bool: ...
    @property
    def context_length(self) -> int: ...
    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Completion: ...
    def stream_chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Iterator[Delta]: ...
    def chat_batch(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None
    ) -> list[Completion]: ...
    def count_tokens(self, text: str | Sequence[Message]) -> int: ...
    def prompt_tokens(self, prompt: str) -> list[int]: ...


@dataclass(frozen=True)
class AnswerDelta:
    """A piece of an answer's text."""

    text: str


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str
    citations: list[Citation] = field(default_factory=list)
    mode: str = "extract"
    """How it was made: stuff, focus, refine, map_reduce, extract."""
    notes: list[str] = field(default_factory=list)
    """Messages to the user, a line each, in the question's language."""
    refused: bool = False
    """The library holds no answer: told without asking a model, or by the model in `focus`."""
    usage: Usage = field(default_factory=Usage)
    """Tokens of all the requests that it took."""
    question: str = ""
    """What was searched for: the question, made whole where it leaned on the history."""
    hits: list[Hit] = field(default_factory=list)
    """The passages it was made from, by their source numbers from 1."""
    finish_reason: str = "stop"
    """`length` where max_tokens cut off what a model wrote; see `core.engines.base.FINISH_REASONS`."""


Event = AnswerDelta | Answer


def choose(model: ChatModel | None, language: str) -> tuple[str, list[str]]:
    """`stuff` with a chat model that speaks the language, `focus` with a reader; else `extract`, and why."""
    words = wording(language)
    if model is None:
        return "extract", [words.no_model]
    if model.kind != "chat":
        return "extract", [words.base_model.format(model=model.name)]
    if model.languages and language not in model.languages:
        return "extract", [words.not_spoken.format(model=model.name)]
    return "focus" if model.reads else "stuff", []


def together(one: Usage, other: Usage) -> Usage:
    """The tokens of two requests."""
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cached_tokens + other.cached_tokens,
    )
