"""One question on its way to an answer: what was asked of what, what it means, and what a model said to it.

Checks the options, makes a follow-up whole, speaks to the model, and checks what it cites. `answering` has the ways to
answer. Knows no framework.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from ..core.chat import Message
from ..core.engines.base import Usage
from ..core.errors import BadInput
from ..core.sampling import Sampling
from . import citations, followups
from .answers import Answer, AnswerDelta, ChatModel, Event, choose, together
from .citations import Citation, Marks
from .filters import Filters
from .fitting import Window
from .hits import Hit
from .library import Library
from .prompts import Wording, wording
from .reranking import Reranker
from .terms import language_of
from .turns import Turn

MODES = ("auto", "stuff", "focus", "refine", "map_reduce", "extract")


class WroteNothing(Exception):
    """A model ended its answer before its first word."""


class Asking:
    """One question, the model it is put to, and what both have come to so far."""

    def __init__(
        self,
        library: Library,
        model: ChatModel | None,
        question: str,
        mode: str,
        k: int,
        history: Sequence[Message | Mapping[str, str]],
        sampling: Sampling,
        filters: Filters | Mapping[str, Any] | None,
        abstain: bool,
        rerank: str | Reranker | None,
    ) -> None:
        if mode not in MODES:
            raise BadInput(f"{mode!r} is not a way to answer.", f"Valid: {', '.join(MODES)}.")
        if mode not in ("auto", "extract") and model is None:
            raise BadInput(f"Answering by {mode} needs a model.", "Give one, or answer by extract.")
        if not hasattr(library, "check"):
            raise BadInput(f"{library!r} is no open library.", "Give one of `Library.open`.")
        if model is not None and not hasattr(model, "stream_chat"):
            raise BadInput(f"{model!r} is no loaded model.", "Give one of `hanpaca.load`, or None.")
        _check_reader(model, mode, sampling)
        library.check(question, k)
        self.library, self.model, self.k, self.filters = library, model, k, filters
        self.original = self.question = question.strip()
        self.history = [Message.of(message) for message in history]
        self.language = language_of(question) or next(
            (found for message in reversed(self.history) if (found := language_of(message.content))), "en"
        )
        self.words: Wording = wording(self.language)
        self.mode, self.choice = choose(model, self.language) if mode == "auto" else (mode, [])
        self.notes = list(self.choice)
        self.usage = Usage()
        self.finish_reason = "stop"
        self.abstain, self.rerank = abstain, rerank
        self._window = Window(model, sampling) if model else None

    @property
    def window(self) -> Window:
        assert self._window is not None, "there is no prompt without a model"
        return self._window

    @cached_property
    def last(self) -> Turn | None:
        """The turn before with its answer, if it is known and was in this language."""
        last = self.library.turns.before(self.history, self.setting, self.library.store)
        return last if last and last.messages[0].content == self.words.system else None

    @property
    def setting(self) -> Hashable:
        """What chooses the passages, beside the conversation."""
        return Filters.of(self.filters), self.k, repr(self.rerank)

    def understand(self) -> None:
        """Make a follow-up question understandable without the history."""
        if not self.history:
            return
        if self.mode in ("extract", "focus") or self.model is None:
            self.question = followups.make_whole(self.question, self.history)
        elif self.last:  # the model will see all that was said: only the search needs the question whole, at once
            self.question = followups.put_after(self.last.question, self.question)
        else:
            self.question = followups.rewrite(self.question, self.history, self.words, self.window, self._ask_line)
        if self.question != self.original:
            self.notes.append(self.words.understood.format(question=self.question))

    def ask(self, messages: Sequence[Message]) -> str:
        """What the model says to a prompt that is no answer yet."""
        return self._chat(messages, self.window.sampling())

    def _ask_line(self, messages: Sequence[Message], most: int) -> str:
        sampling = self.window.sampling()
        return self._chat(messages, sampling.replace(max_tokens=most, stop=(*sampling.stop, "\n")))

    def _chat(self, messages: Sequence[Message], sampling: Sampling) -> str:
        assert self.model is not None
        completion = self.model.chat(messages, sampling)
        self.count(completion.usage)
        return completion.text

    def write(self, messages: Sequence[Message], numbered: Mapping[int, Hit]) -> Iterator[Event]:
        """Stream the final answer, its source numbers checked. Raises `WroteNothing`."""
        assert self.model is not None
        marks, held, reason = Marks(numbered), "", "stop"
        for delta in self.model.stream_chat(messages, self.window.sampling()):
            if delta.usage is not None:
                self.count(delta.usage)
            reason = delta.finish_reason or reason
            held += marks.feed(delta.text)
            if held and marks.text.strip():  # before its first word it may still write nothing
                yield AnswerDelta(held)
                held = ""
        held += marks.finish()
        if not marks.text.strip():
            raise WroteNothing
        self.finish_reason = reason
        if held:
            yield AnswerDelta(held)
        yield self._checked(marks, numbered)

    def _checked(self, marks: Marks, numbered: Mapping[int, Hit]) -> Answer:
        if self.mode == "focus" and marks.text.strip().startswith(self.words.absent.rstrip("。.")):
            return self.answer(marks.text.strip(), [], list(numbered.values()), refused=True)
        found, named = citations.settle(marks, numbered)
        if marks.removed:
            self.notes.append(self.words.removed.format(markers=" ".join(dict.fromkeys(marks.removed))))
        if not named:
            self.notes.append(self.words.uncited if found else self.words.unsupported)
        return self.answer(marks.text.strip(), found, list(numbered.values()))

    def count(self, usage: Usage) -> None:
        """Add the tokens of one prompt and its answer."""
        self.usage = together(self.usage, usage)

    def answer(self, text: str, cited: list[Citation], hits: list[Hit], refused: bool = False) -> Answer:
        """The answer as it is given out, with all that was noted on the way."""
        told = (refused, self.usage, self.question, hits, self.finish_reason)
        return Answer(text, cited, self.mode, self.notes, *told)


def _check_reader(model: ChatModel | None, mode: str, sampling: Sampling) -> None:
    """Raise `BadInput` for what a reader was not taught."""
    if model is None or not model.reads:
        return
    if mode in ("stuff", "refine", "map_reduce"):
        raise BadInput(
            f"{model.name} reads a few sentences: it cannot answer by {mode}.",
            "Use focus or extract, or another model.",
        )
    if sampling.grammar is not None or sampling.json_schema is not None:
        raise BadInput(f"{model.name} answers in the sources' words, in no other form.", "Use a chat model.")
