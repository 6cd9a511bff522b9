"""Questions answered from a library, with citations: by a model (stuff, focus, refine, map_reduce) or by quotation.

Sources come first in the prompt and the question last; `fitting` keeps it within the window, `followups` makes a
question whole, `citations` checks what a model cites. Knows no framework.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from ..core.chat import Message
from ..core.engines.base import Usage
from ..core.errors import BadInput, ContextOverflow
from ..core.sampling import Sampling
from . import citations, extract, focus, followups, short_answer
from .answers import Answer, AnswerDelta, ChatModel, Event, choose, together
from .citations import Citation, Marks
from .extract import Quote
from .filters import Filters
from .fitting import Window
from .hits import Hit, filled
from .library import Library
from .prompts import Wording, wording
from .reranking import Reranker
from .retrieval import Found
from .splitting import TARGET
from .terms import language_of
from .turns import Turn

MODES = ("auto", "stuff", "focus", "refine", "map_reduce", "extract")
MANY = 4
"""`refine` and `map_reduce` read so many times the passages that one prompt would."""


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
    rerank: str | Reranker | None = None,
) -> Iterator[Event]:
    """Pieces of the answer's text, then the whole `Answer`.

    `auto` is `stuff` with a chat model that speaks the question's language, `focus` with a reader, else `extract` with
    a note that says so. `focus` shows the model only the best sentences of three passages; what a reader is sure of
    then stands over quotations, which are all that is shown where it is not; it is asked greedily, whatever `sampling`
    says. `k` passages are used, `refine` and `map_reduce` read more. With `history`, a question that leans on it is
    made whole first, and a note shows it. With `abstain`, a question that the library does not seem to answer is
    refused before any model runs. `rerank` names a cross-encoder that orders the passages anew. Raises `BadInput` for
    an empty question or library, an unknown mode, a mode without the model it needs, and what a reader was not taught.
    """
    asking = _Asking(library, model, question, mode, k, history, Sampling.of(sampling), filters, abstain, rerank)
    return asking.run()


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
        rerank: str | Reranker | None,
    ) -> None:
        if mode not in MODES:
            raise BadInput(f"{mode!r} is not a way to answer.", f"Valid: {', '.join(MODES)}.")
        if mode not in ("auto", "extract") and model is None:
            raise BadInput(f"Answering by {mode} needs a model.", "Give one, or answer by extract.")
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
        self.abstain, self.rerank = abstain, rerank
        self._window = Window(model, sampling) if model else None

    @property
    def window(self) -> Window:
        assert self._window is not None, "there is no prompt without a model"
        return self._window

    def run(self) -> Iterator[Event]:
        """The events of the answer."""
        self._understand()
        wanted = self.k * (MANY if self.mode in ("refine", "map_reduce") else 1)
        wanted = max(wanted, extract.PASSAGES)
        search = self.library.find(self.question, wanted, filters=self.filters, rerank=self.rerank, fill=False)
        if search.pending:
            self.notes.append(self.words.only_keywords.format(pending=search.pending, passages=search.passages))
        if self.abstain and not search.answerable:
            yield from self._refuse(search)
            return
        if self.mode == "extract":
            yield from self._extract(search)
            return
        try:
            writing = {"stuff": self._stuff, "refine": self._refine, "map_reduce": self._map_reduce}
            yield from self._focus(search) if self.mode == "focus" else writing[self.mode](search.hits)
        except ContextOverflow as error:
            assert self.model is not None
            if not self.window.holds([Message("user", self.original)]):
                raise ContextOverflow(
                    f"The question alone fills the window of {self.model.name} ({self.model.context_length} tokens).",
                    "Ask a shorter one, or use a model with a longer context.",
                ) from error
            self.notes.append(self.words.quoting.format(model=self.model.name, window=self.model.context_length))
            self.mode = "extract"
            yield from self._extract(search)

    def _refuse(self, search: Found) -> Iterator[Event]:
        """No answer, and no model asked: with the nearest sentences where the evidence is only a little short."""
        self.notes = [note for note in self.notes if note not in self.choice]
        if not search.nearly:
            yield AnswerDelta(self.words.refused)
            yield self._answer(self.words.refused, [], [], refused=True)
            return
        yield from self._extract(search, self.words.unsure, refused=True)

    # -- the ways to answer ----------------------------------------------------------------------------------------

    def _extract(
        self, search: Found, heading: str = "", first: Quote | None = None, refused: bool = False
    ) -> Iterator[Event]:
        """The best sentences, word for word, a line each, under a heading; `first` comes before them."""
        nearness = self.library.nearness(self.question)
        whole = [filled(self.library.store, hit, TARGET) for hit in search.hits[: extract.PASSAGES]]
        quoted = extract.quotes(self.question, whole, search.weights, nearness=nearness)
        if first is not None:
            quoted = [first, *(quote for quote in quoted if not quote.within(first))][: extract.QUOTES]
        lines = [f"{' '.join(quote.text.split())} [{number}]" for number, quote in enumerate(quoted, 1)]
        lines = [heading, *lines] if heading else lines
        for number, line in enumerate(lines):
            yield AnswerDelta(line if number == 0 else f"\n{line}")
        cited = [citations.cite(number, quote.hit, quote.start, quote.end) for number, quote in enumerate(quoted, 1)]
        yield self._answer("\n".join(lines), cited, [quote.hit for quote in quoted], refused)

    def _stuff(self, hits: Sequence[Hit]) -> Iterator[Event]:
        """All passages in one prompt, which begins as the one of the turn before if it can."""
        messages, used = self._continued(hits[: self.k]) or self._fit(hits[: self.k])
        turn = Turn(tuple(messages), tuple(used), self.question)
        self.library.turns.remember([*self.history, Message("user", self.original)], self._setting, turn)
        yield from self._write(messages, dict(enumerate(used, 1)))

    def _focus(self, search: Found) -> Iterator[Event]:
        """The best sentences of the first passages in a short prompt."""
        assert self.model is not None
        if self.model.reads and self.question != self.original:  # it was taught single questions
            yield from self._not_sure(search, self.words.single)
            return
        size = focus.READING if self.model.reads else focus.CHARACTERS
        shown = focus.focused(self.question, search.hits[: min(self.k, focus.PASSAGES)], search.weights, size)
        messages = focus.messages(self.words, shown, self.question)
        if not self.window.holds(messages):
            raise ContextOverflow("The question and one sentence exceed the window.", "Use a longer context.")
        if self.model.reads:
            yield from self._read(messages, shown, search)
        else:
            yield from self._write(messages, {number: hit for number, (hit, _) in enumerate(shown, 1)})

    def _read(self, messages: Sequence[Message], shown: Sequence[tuple[Hit, str]], search: Found) -> Iterator[Event]:
        """What a reader says over the sentence it has it from and the best others; these alone if it is not sure."""
        assert self.model is not None
        said = self.model.chat(messages, self.window.sampling().replace(**short_answer.sampling(shown, self.words)))
        self._count(said.usage)
        if short_answer.refuses(said):
            yield from self._extract(search, self.words.unsure, refused=True)
            return
        short = short_answer.read(said, shown)
        if short is not None and short.sure:
            yield from self._extract(search, f"{short.text} [1]", short.source)
            return
        yield from self._not_sure(search, self.words.not_sure)

    def _not_sure(self, search: Found, why: str) -> Iterator[Event]:
        """Quotations, where a reader's words would be a guess."""
        assert self.model is not None
        self.notes.append(why.format(model=self.model.name))
        self.mode = "extract"
        yield from self._extract(search)

    def _refine(self, hits: Sequence[Hit]) -> Iterator[Event]:
        """An answer from the first passages, then improved passage by passage."""
        messages, used = self._fit(hits[: self.k])
        numbered = dict(enumerate(used, 1))
        rest = hits[len(used) :]
        if not rest:
            yield from self._write(messages, numbered)
            return
        text = self._ask(messages)
        for at, hit in enumerate(rest):
            number = len(used) + 1 + at
            numbered[number] = hit
            system, body = self.words.refine, self.words.refine_question.replace("{answer}", _plain(text))
            messages = self.window.fit([hit], body, self.question, system=system, first=number).messages
            if at < len(rest) - 1:
                text = self._ask(messages)
        yield from self._write(messages, numbered)

    def _map_reduce(self, hits: Sequence[Hit]) -> Iterator[Event]:
        """Each passage asked by itself, all in one batch; then one answer from what they said."""
        assert self.model is not None
        body = self.words.map_question
        system, question = self.words.system, self.question
        asked = [
            self.window.fit([hit], body, question, system=system, first=number).messages
            for number, hit in enumerate(hits, 1)
        ]
        said = self.model.chat_batch(asked, self.window.sampling())
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
        places = {number: hit.place for number, hit in numbered.items()}
        messages = self.window.fit_notes(notes, places, self.words.reduce, question, system=system)
        yield from self._write(messages, numbered)

    def _continued(self, hits: Sequence[Hit]) -> tuple[list[Message], list[Hit]] | None:
        """The turn before and what is new; None where it is not known, or what is new has no room."""
        last = self._last
        if last is None:
            return None
        known = {hit.passage_id for hit in last.hits}
        best = hits[: -(-len(hits) // 2)]  # the lower half seldom holds the answer, and conversations grow
        new = [hit for hit in best if hit.passage_id not in known]
        found = self.window.go_on(last.messages, new, self.words.question, self.original, len(last.hits) + 1)
        return (found.messages, [*last.hits, *new]) if found else None

    @cached_property
    def _last(self) -> Turn | None:
        """The turn before with its answer, if it is known and was in this language."""
        last = self.library.turns.before(self.history, self._setting, self.library.store)
        return last if last and last.messages[0].content == self.words.system else None

    @property
    def _setting(self) -> Hashable:
        """What chooses the passages, beside the conversation."""
        return Filters.of(self.filters), self.k, repr(self.rerank)

    def _fit(self, hits: Sequence[Hit]) -> tuple[list[Message], list[Hit]]:
        """The prompt of an answer and the passages in it; what had no room is said."""
        found = self.window.fit(
            hits, self.words.question, self.question, system=self.words.system, history=self.history
        )
        if found.shed_messages:
            self.notes.append(self.words.shed_history.format(count=found.shed_messages))
        if found.shed_passages:
            self.notes.append(self.words.shed_passages.format(count=found.shed_passages))
        return found.messages, found.hits

    # -- the model ---------------------------------------------------------------------------------------------------

    def _understand(self) -> None:
        """Make a follow-up question understandable without the history."""
        if not self.history:
            return
        if self.mode in ("extract", "focus") or self.model is None:
            self.question = followups.make_whole(self.question, self.history)
        elif self._last:  # the model will see all that was said: only the search needs the question whole, at once
            self.question = followups.put_after(self._last.question, self.question)
        else:
            self.question = followups.rewrite(self.question, self.history, self.words, self.window, self._ask_line)
        if self.question != self.original:
            self.notes.append(self.words.understood.format(question=self.question))

    def _ask(self, messages: Sequence[Message]) -> str:
        return self._chat(messages, self.window.sampling())

    def _ask_line(self, messages: Sequence[Message], most: int) -> str:
        sampling = self.window.sampling()
        return self._chat(messages, sampling.replace(max_tokens=most, stop=(*sampling.stop, "\n")))

    def _chat(self, messages: Sequence[Message], sampling: Sampling) -> str:
        assert self.model is not None
        completion = self.model.chat(messages, sampling)
        self._count(completion.usage)
        return completion.text

    def _write(self, messages: Sequence[Message], numbered: Mapping[int, Hit]) -> Iterator[Event]:
        """Stream the final answer, its source numbers checked."""
        assert self.model is not None
        marks = Marks(numbered)
        for delta in self.model.stream_chat(messages, self.window.sampling()):
            if delta.usage is not None:
                self._count(delta.usage)
            if shown := marks.feed(delta.text):
                yield AnswerDelta(shown)
        if shown := marks.finish():
            yield AnswerDelta(shown)
        yield self._checked(marks, numbered)

    def _checked(self, marks: Marks, numbered: Mapping[int, Hit]) -> Answer:
        if self.mode == "focus" and marks.text.strip().startswith(self.words.absent.rstrip("。.")):
            return self._answer(marks.text.strip(), [], list(numbered.values()), refused=True)
        found, named = citations.settle(marks, numbered)
        if marks.removed:
            self.notes.append(self.words.removed.format(markers=" ".join(dict.fromkeys(marks.removed))))
        if not named:
            self.notes.append(self.words.uncited if found else self.words.unsupported)
        return self._answer(marks.text.strip(), found, list(numbered.values()))

    def _count(self, usage: Usage) -> None:
        self.usage = together(self.usage, usage)

    def _answer(self, text: str, cited: list[Citation], hits: list[Hit], refused: bool = False) -> Answer:
        return Answer(text, cited, self.mode, self.notes, refused, self.usage, self.question, hits)


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


def _plain(text: str) -> str:
    """An earlier answer as part of a template: its braces name nothing there."""
    return text.replace("{", "(").replace("}", ")")


def _note(text: str, number: int) -> str:
    """What a passage gave, with the one source number that it can have."""
    marks = Marks({number})
    return f"{(marks.feed(text) + marks.finish()).strip()}"
