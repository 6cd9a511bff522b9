"""Questions answered from a library, with citations: by a model (`stuff`, `refine`, `map_reduce`) or by quotation.

Sources come first in the prompt and the question last. The prompt is measured with the model's own tokenizer as it
will be rendered, and never exceeds the window: the oldest history goes first, then the lowest passages, whole; the
question never. Knows no framework.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Protocol

from ..core.chat import Message
from ..core.engines.base import Completion, Delta, Usage
from ..core.errors import BadInput, ContextOverflow
from ..core.sampling import Sampling
from . import citations, extract, prompts
from .citations import Citation, Marks
from .filters import Filters
from .library import Library
from .prompts import Wording, wording
from .retrieval import Hit
from .terms import language_of, terms

MODES = ("auto", "stuff", "refine", "map_reduce", "extract")
ANSWER_TOKENS = 512
"""Room kept for an answer whose length nobody set; a quarter of a small window."""
MANY = 4
"""`refine` and `map_reduce` read so many times the passages that one prompt would."""


class ChatModel(Protocol):
    """The part of `hanpaca.Model` that answering uses."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def context_length(self) -> int: ...
    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Completion: ...
    def stream_chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Iterator[Delta]: ...
    def chat_batch(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None
    ) -> list[Completion]: ...
    def count_tokens(self, text: str | Sequence[Message]) -> int: ...


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
    """How it was made: stuff, refine, map_reduce, extract."""
    notes: list[str] = field(default_factory=list)
    """Messages to the user, a line each, in the question's language."""
    refused: bool = False
    """The library holds no answer; no model was asked."""
    usage: Usage = field(default_factory=Usage)
    """Tokens of all the requests that it took."""
    question: str = ""
    """What was searched for: the question, made whole where it leaned on the history."""
    hits: list[Hit] = field(default_factory=list)
    """The passages it was made from, by their source numbers from 1."""


Event = AnswerDelta | Answer


def answer(library: Library, model: ChatModel | None, question: str, **options: Any) -> Answer:
    """The answer to a question; takes the options of `stream_answer`."""
    *_, last = stream_answer(library, model, question, **options)
    assert isinstance(last, Answer)
    return last


def stream_answer(
    library: Library,
    model: ChatModel | None,
    question: str,
    *,
    mode: str = "auto",
    k: int = 5,
    history: Sequence[Message | Mapping[str, str]] = (),
    sampling: Sampling | Mapping[str, Any] | None = None,
    filters: Filters | Mapping[str, Any] | None = None,
    abstain: bool = True,
) -> Iterator[Event]:
    """Pieces of the answer's text, then the whole `Answer`.

    `auto` is `stuff` with a chat model that speaks the question's language, else `extract` with a note that says so.
    `k` passages are used, `refine` and `map_reduce` read more. With `history`, a question that leans on it is made
    whole first, and a note shows it. With `abstain`, a question that the library does not seem to answer is refused
    before any model runs. Raises `BadInput` for an empty question or library, an unknown mode, a mode that needs a
    model without one.
    """
    asking = _Asking(library, model, question, mode, k, history, Sampling.of(sampling), filters, abstain)
    return asking.run()


async def aanswer(library: Library, model: ChatModel | None, question: str, **options: Any) -> Answer:
    """`answer` without blocking the event loop."""
    async for event in astream_answer(library, model, question, **options):
        if isinstance(event, Answer):
            return event
    raise AssertionError("a stream of events ends with the answer")


async def astream_answer(
    library: Library, model: ChatModel | None, question: str, **options: Any
) -> AsyncIterator[Event]:
    """`stream_answer` without blocking the event loop. Closing the iterator, or cancelling the task, stops the work."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Event | BaseException | None]()
    stopped = threading.Event()

    def tell(item: Event | BaseException | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def work() -> None:
        try:
            events = stream_answer(library, model, question, **options)
            for event in events:
                if stopped.is_set():
                    events.close()  # type: ignore[attr-defined]
                    return
                tell(event)
            tell(None)
        except BaseException as error:  # handed to the waiting side, which raises it
            tell(error)

    worker = asyncio.create_task(asyncio.to_thread(work))
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        if not worker.done():
            await asyncio.shield(worker)


def choose(model: ChatModel | None, language: str) -> tuple[str, list[str]]:
    """`stuff` with a chat model that speaks the language, else `extract`; and the note that says why."""
    words = wording(language)
    if model is None:
        return "extract", [words.no_model]
    if model.kind != "chat":
        return "extract", [words.base_model.format(model=model.name)]
    if model.languages and language not in model.languages:
        return "extract", [words.not_spoken.format(model=model.name)]
    return "stuff", []


def together(one: Usage, other: Usage) -> Usage:
    """The tokens of two requests."""
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cached_tokens + other.cached_tokens,
    )


class _Asking:
    """One question on its way to an answer."""

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
    ) -> None:
        if mode not in MODES:
            raise BadInput(f"{mode!r} is not a way to answer.", f"Valid: {', '.join(MODES)}.")
        if mode not in ("auto", "extract") and model is None:
            raise BadInput(f"Answering by {mode} needs a model.", "Give one, or answer by extract.")
        library.check(question, k)
        self.library, self.model, self.k, self.filters = library, model, k, filters
        self.original = self.question = question.strip()
        self.history = [Message.of(message) for message in history]
        self.language = language_of(question) or next(
            (found for message in reversed(self.history) if (found := language_of(message.content))), "en"
        )
        self.words: Wording = wording(self.language)
        self.mode, self.notes = choose(model, self.language) if mode == "auto" else (mode, [])
        self.usage = Usage()
        self.abstain = abstain
        self.sampling = sampling

    def run(self) -> Iterator[Event]:
        """The events of the answer."""
        if self.history:
            self._make_whole()
        wanted = self.k * (MANY if self.mode in ("refine", "map_reduce") else 1)
        search = self.library.find(self.question, wanted, filters=self.filters)
        if search.pending:
            self.notes.append(self.words.only_keywords.format(pending=search.pending, passages=search.passages))
        if self.abstain and not search.answerable:
            yield AnswerDelta(self.words.refused)
            yield self._answer(self.words.refused, [], [], refused=True)
            return
        if self.mode == "extract":
            yield from self._extract(search.hits, search.weights)
            return
        try:
            writing = {"stuff": self._stuff, "refine": self._refine, "map_reduce": self._map_reduce}[self.mode]
            yield from writing(search.hits)
        except ContextOverflow as error:
            assert self.model is not None
            if self.model.count_tokens([Message("user", self.original)]) + self._room() > self.model.context_length:
                raise ContextOverflow(
                    f"The question alone fills the window of {self.model.name} ({self.model.context_length} tokens).",
                    "Ask a shorter one, or use a model with a longer context.",
                ) from error
            self.notes.append(self.words.quoting.format(model=self.model.name, window=self.model.context_length))
            self.mode = "extract"
            yield from self._extract(search.hits, search.weights)

    # -- the ways to answer ----------------------------------------------------------------------------------------

    def _extract(self, hits: Sequence[Hit], weights: Mapping[str, float]) -> Iterator[Event]:
        """The best sentences, word for word, a line each."""
        nearness = self.library.nearness(self.question)
        quoted = extract.quotes(self.question, hits[: self.k], weights, nearness=nearness)
        lines = [f"{' '.join(quote.text.split())} [{number}]" for number, quote in enumerate(quoted, 1)]
        for number, line in enumerate(lines):
            yield AnswerDelta(line if number == 0 else f"\n{line}")
        cited = [citations.cite(number, quote.hit, quote.start, quote.end) for number, quote in enumerate(quoted, 1)]
        yield self._answer("\n".join(lines), cited, [quote.hit for quote in quoted])

    def _stuff(self, hits: Sequence[Hit]) -> Iterator[Event]:
        """All passages in one prompt."""
        messages, used = self._fit(hits[: self.k], self.words.question)
        yield from self._write(messages, dict(enumerate(used, 1)))

    def _refine(self, hits: Sequence[Hit]) -> Iterator[Event]:
        """An answer from the first passages, then improved passage by passage."""
        messages, used = self._fit(hits[: self.k], self.words.question)
        numbered = dict(enumerate(used, 1))
        rest = hits[len(used) :]
        if not rest:
            yield from self._write(messages, numbered)
            return
        text = self._ask(messages).text
        for at, hit in enumerate(rest):
            number = len(used) + 1 + at
            numbered[number] = hit
            system, body = self.words.refine, self.words.refine_question.replace("{answer}", _plain(text))
            messages, _ = self._fit([hit], body, system=system, first=number, with_history=False)
            if at < len(rest) - 1:
                text = self._ask(messages).text
        yield from self._write(messages, numbered)

    def _map_reduce(self, hits: Sequence[Hit]) -> Iterator[Event]:
        """Each passage asked by itself, all in one batch; then one answer from what they said."""
        assert self.model is not None
        body = self.words.map_question
        asked = [self._fit([hit], body, first=n, with_history=False)[0] for n, hit in enumerate(hits, 1)]
        said = self.model.chat_batch(asked, self._limited())
        for completion in said:
            self._count(completion.usage)
        numbered = {number: hit for number, hit in enumerate(hits, 1)}
        notes = [
            (number, _note(completion.text, number))
            for number, completion in enumerate(said, 1)
            if self.words.nothing not in completion.text and completion.text.strip()
        ]
        if not notes:
            yield AnswerDelta(self.words.refused)
            yield self._answer(self.words.refused, [], list(hits), refused=True)
            return
        messages = self._fit_notes(notes, numbered)
        yield from self._write(messages, numbered)

    # -- prompts that fit --------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """Tokens kept for the answer."""
        assert self.model is not None
        return self.sampling.max_tokens or max(1, min(ANSWER_TOKENS, self.model.context_length // 4))

    def _limited(self) -> Sampling:
        """The caller's settings within the window; a small model that begins to copy the sources' frame is stopped."""
        return self.sampling.replace(max_tokens=self._room(), stop=(*self.sampling.stop, "</source", "<source"))

    def _fits(self, messages: Sequence[Message]) -> bool:
        assert self.model is not None
        return self.model.count_tokens(messages) + self._room() <= self.model.context_length

    def _fit(
        self,
        hits: Sequence[Hit],
        body: str,
        *,
        system: str | None = None,
        first: int = 1,
        with_history: bool = True,
    ) -> tuple[list[Message], list[Hit]]:
        """A prompt within the window, and the passages in it. Raises `ContextOverflow` if not even one has room."""
        history = list(self.history) if with_history else []
        kept = list(hits)
        while True:
            messages = self._prompt(history, kept, body, system or self.words.system, first)
            if self._fits(messages):
                break
            if history:
                del history[0]
                while history and history[0].role != "user":
                    del history[0]
            elif len(kept) > 1:
                kept.pop()
            else:
                raise ContextOverflow("The question and one passage exceed the window.", "Use a longer context.")
        self._say_shed(len(self.history) - len(history) if with_history else 0, len(hits) - len(kept))
        return messages, kept

    def _prompt(
        self, history: Sequence[Message], hits: Sequence[Hit], body: str, system: str, first: int
    ) -> list[Message]:
        shown = prompts.sources(
            [(number, f"{PurePath(hit.file).name}, {hit.place}", hit.text) for number, hit in enumerate(hits, first)]
        )
        text = prompts.fill(body, sources=shown, question=self.question)
        return [Message("system", system), *history, Message("user", text)]

    def _fit_notes(self, notes: list[tuple[int, str]], numbered: Mapping[int, Hit]) -> list[Message]:
        kept = list(notes)
        while True:
            shown = prompts.sources([(number, numbered[number].place, text) for number, text in kept])
            text = prompts.fill(self.words.reduce, sources=shown, question=self.question)
            messages = [Message("system", self.words.system), Message("user", text)]
            if self._fits(messages):
                return messages
            if len(kept) == 1:
                raise ContextOverflow("The question and one note exceed the window.", "Use a longer context.")
            kept.pop()

    def _say_shed(self, messages: int, passages: int) -> None:
        if messages:
            self.notes.append(self.words.shed_history.format(count=messages))
        if passages:
            self.notes.append(self.words.shed_passages.format(count=passages))

    # -- the model ---------------------------------------------------------------------------------------------------

    def _make_whole(self) -> None:
        """Make a follow-up question understandable without the history."""
        if self.mode == "extract" or self.model is None:
            if _leans(self.question):
                self.question = f"{self._last_question()} {self.question}".strip()
        else:
            rewritten = self._rewrite()
            if rewritten and self._is_faithful(rewritten):
                self.question = rewritten
            elif _leans(self.question):
                self.question = f"{self._last_question()} {self.question}".strip()
        if self.question != self.original:
            self.notes.append(self.words.understood.format(question=self.question))

    def _last_question(self) -> str:
        return next((message.content.strip() for message in reversed(self.history) if message.role == "user"), "")

    def _is_faithful(self, rewritten: str) -> bool:
        """Whether a rewritten question says what was said before: small models write something else altogether."""
        asked, new = set(terms(self.original)), set(terms(rewritten))
        said = asked.union(*(terms(message.content) for message in self.history))
        return len(new & said) >= 0.6 * len(new) > 0 and len(new & asked) >= 0.3 * len(asked)

    def _rewrite(self) -> str:
        assert self.model is not None
        history = list(self.history)
        while history:
            conversation = "\n".join(f"{message.role}: {message.content}" for message in history)
            text = prompts.fill(self.words.rewrite_question, conversation=conversation, question=self.original)
            messages = [Message("system", self.words.rewrite), Message("user", text)]
            if self._fits(messages):
                said = self._ask(messages, max_tokens=min(96, self._room())).text.strip()
                return " ".join(said.splitlines()[:1]).strip('"“”「」 ')
            del history[0]
        return ""

    def _ask(self, messages: Sequence[Message], **settings: Any) -> Completion:
        assert self.model is not None
        completion = self.model.chat(messages, self._limited().replace(**settings))
        self._count(completion.usage)
        return completion

    def _write(self, messages: Sequence[Message], numbered: Mapping[int, Hit]) -> Iterator[Event]:
        """Stream the final answer, its source numbers checked."""
        assert self.model is not None
        marks = Marks(numbered)
        for delta in self.model.stream_chat(messages, self._limited()):
            if delta.usage is not None:
                self._count(delta.usage)
            if shown := marks.feed(delta.text):
                yield AnswerDelta(shown)
        if shown := marks.finish():
            yield AnswerDelta(shown)
        yield self._checked(marks, numbered)

    def _checked(self, marks: Marks, numbered: Mapping[int, Hit]) -> Answer:
        cited: Mapping[int, Sequence[int]] = marks.cited
        if marks.removed:
            self.notes.append(self.words.removed.format(markers=" ".join(dict.fromkeys(marks.removed))))
        if not cited:
            cited = {number: [len(marks.text)] for number in citations.supporting(marks.text, numbered)}
            if cited:
                self.notes.append(self.words.uncited)
        found = citations.of_answer(marks.text, cited, numbered)
        return self._answer(marks.text.strip(), found, list(numbered.values()))

    def _count(self, usage: Usage) -> None:
        self.usage = together(self.usage, usage)

    def _answer(self, text: str, cited: list[Citation], hits: list[Hit], refused: bool = False) -> Answer:
        return Answer(text, cited, self.mode, self.notes, refused, self.usage, self.question, hits)


_LEANING = (
    "它", "他", "她", "这", "那", "其", "前者", "后者", "上面", "刚才", "还有", "呢", "为什么？",
    " it", "its ", " they", " them", "their ", " he ", " she ", " his ", " her ", " this", " that", " these", " those",
    "what about", "how about", "and ", "why?", "more?",
)  # fmt: skip


def _leans(question: str) -> bool:
    """Whether a question seems to need what was said before."""
    padded = f" {question.lower()} "
    return len(question) < 8 or any(word in padded for word in _LEANING)


def _plain(text: str) -> str:
    """An earlier answer as part of a template: its braces name nothing there."""
    return text.replace("{", "(").replace("}", ")")


def _note(text: str, number: int) -> str:
    """What a passage gave, with the one source number that it can have."""
    marks = Marks({number})
    return f"{(marks.feed(text) + marks.finish()).strip()}"
