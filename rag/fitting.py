"""Prompts within a model's window, measured with its own tokenizer as they will be rendered.

The oldest history goes first, then the lowest passages, whole; the question never. Knows no library and no search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

from ..core.chat import Message
from ..core.errors import ContextOverflow
from ..core.sampling import Sampling
from . import prompts
from .answers import ChatModel
from .hits import Hit

ANSWER_TOKENS = 512
"""Room kept for an answer whose length nobody set; a quarter of a small window."""


class Fitted(NamedTuple):
    """A prompt, the passages in it, and how many messages of the history and passages had no room."""

    messages: list[Message]
    hits: list[Hit]
    shed_messages: int
    shed_passages: int


class Window:
    """A model's window, with room kept for the answer."""

    def __init__(self, model: ChatModel, sampling: Sampling) -> None:
        self._model = model
        self._sampling = sampling
        self.room = sampling.max_tokens or max(1, min(ANSWER_TOKENS, model.context_length // 4))
        """Tokens kept for the answer."""

    def sampling(self) -> Sampling:
        """The caller's settings within the window; a small model that begins to copy the sources' frame is stopped."""
        return self._sampling.replace(max_tokens=self.room, stop=(*self._sampling.stop, "</source", "<source"))

    def holds(self, messages: Sequence[Message]) -> bool:
        """Whether a prompt leaves the room for the answer."""
        return self._model.count_tokens(messages) + self.room <= self._model.context_length

    def fit(
        self,
        hits: Sequence[Hit],
        body: str,
        question: str,
        *,
        system: str,
        history: Sequence[Message] = (),
        first: int = 1,
    ) -> Fitted:
        """A prompt with as many passages as have room. Raises `ContextOverflow` if not even one has."""
        said, kept = list(history), list(hits)
        while not self.holds(messages := _prompt(said, kept, body, question, system, first)):
            if said:
                del said[0]
                while said and said[0].role != "user":
                    del said[0]
            elif len(kept) > 1:
                kept.pop()
            else:
                raise ContextOverflow("The question and one passage exceed the window.", "Use a longer context.")
        return Fitted(messages, kept, len(history) - len(said), len(hits) - len(kept))

    def go_on(
        self, said: Sequence[Message], hits: Sequence[Hit], body: str, question: str, first: int
    ) -> Fitted | None:
        """A whole conversation, as it stood before the model, and a question with the passages that are new in it,
        numbered from `first`. None where that has no room."""
        text = prompts.fill(body, sources=_shown(hits, first), question=question).strip()
        messages = [*said, Message("user", text)]
        return Fitted(messages, list(hits), 0, 0) if self.holds(messages) else None

    def fit_notes(
        self, notes: Sequence[tuple[int, str]], places: Mapping[int, str], body: str, question: str, *, system: str
    ) -> list[Message]:
        """The same with what was noted of the passages, by their numbers, instead of the passages."""
        kept = list(notes)
        while True:
            shown = prompts.sources([(number, places[number], text) for number, text in kept])
            text = prompts.fill(body, sources=shown, question=question)
            messages = [Message("system", system), Message("user", text)]
            if self.holds(messages):
                return messages
            if len(kept) == 1:
                raise ContextOverflow("The question and one note exceed the window.", "Use a longer context.")
            kept.pop()


def _prompt(
    history: Sequence[Message], hits: Sequence[Hit], body: str, question: str, system: str, first: int
) -> list[Message]:
    text = prompts.fill(body, sources=_shown(hits, first), question=question)
    return [Message("system", system), *history, Message("user", text)]


def _shown(hits: Sequence[Hit], first: int) -> str:
    return prompts.sources(
        [(number, f"{PurePath(hit.file).name}, {hit.place}", hit.text) for number, hit in enumerate(hits, first)]
    )
