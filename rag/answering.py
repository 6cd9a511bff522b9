"""Questions answered from a library, with citations: by a model (stuff, focus, refine, map_reduce) or by quotation.

Sources come first in the prompt and the question last; `fitting` keeps it within the window, `asking` speaks to the
model. Knows no framework.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from ..core.chat import Message
from ..core.errors import ContextOverflow
from ..core.sampling import Sampling
from . import citations, extract, focus, short_answer
from .answers import Answer, AnswerDelta, ChatModel, Event
from .asking import Asking, WroteNothing
from .citations import Marks
from .extract import Quote
from .filters import Filters
from .hits import Hit, filled
from .library import Library
from .reranking import Reranker
from .retrieval import Found
from .splitting import TARGET
from .turns import Turn

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
    then stands over quotations, which stand alone where it is not, its own sentence last; it is asked greedily,
    whatever `sampling` says. `k` passages are used, `refine` and `map_reduce` read more. With `history`, a question
    that leans on it is made whole first, and a note shows it. With `abstain`, a question that the library does not
    seem to answer is refused before any model runs. `rerank` names a cross-encoder that orders the passages anew.
    Raises `BadInput` for an empty question or library, an unknown mode, a mode without the model it needs, and what a
    reader was not taught.
    """
    asking = _Answering(library, model, question, mode, k, history, Sampling.of(sampling), filters, abstain, rerank)
    return asking.run()


class _Answering(Asking):
    """The ways to answer."""

    @cached_property
    def _nearness(self) -> Callable[[Sequence[str]], list[float]] | None:
        """One for the prompt and the quotations: they choose among the same sentences."""
        return self.library.nearness(self.question)

    def run(self) -> Iterator[Event]:
        """The events of the answer."""
        self.understand()
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
                    f"The question and an answer of {self.window.room} tokens exceed the window of {self.model.name} "
                    f"({self.model.context_length} tokens).",
                    "Ask a shorter one, allow fewer tokens for the answer, or use a model with a longer context.",
                ) from error
            why = self.words.quoting.format(model=self.model.name, window=self.model.context_length)
            yield from self._instead(search, why)
        except WroteNothing:
            assert self.model is not None
            yield from self._instead(search, self.words.silent.format(model=self.model.name))

    def _refuse(self, search: Found) -> Iterator[Event]:
        """No answer, and no model asked: with the nearest sentences where the evidence is only a little short."""
        self.notes = [note for note in self.notes if note not in self.choice]
        if not search.nearly:
            yield AnswerDelta(self.words.refused)
            yield self.answer(self.words.refused, [], [], refused=True)
            return
        yield from self._extract(search, self.words.unsure, refused=True)

    def _extract(
        self,
        search: Found,
        heading: str = "",
        first: Quote | None = None,
        refused: bool = False,
        also: Quote | None = None,
    ) -> Iterator[Event]:
        """The best sentences, word for word, a line each, under a heading; `first` comes before them, `also` after."""
        whole = [filled(self.library.store, hit, TARGET) for hit in search.hits[: extract.PASSAGES]]
        quoted = extract.quotes(self.question, whole, search.weights, nearness=self._nearness)
        if first is not None:
            quoted = [first, *(quote for quote in quoted if not quote.within(first))]
        if also is not None and not extract.among(also, quoted):
            quoted = [*quoted, also]
        lines = [f"{' '.join(quote.text.split())} [{number}]" for number, quote in enumerate(quoted, 1)]
        lines = [heading, *lines] if heading else lines
        for number, line in enumerate(lines):
            yield AnswerDelta(line if number == 0 else f"\n{line}")
        cited = [citations.cite(number, quote.hit, quote.start, quote.end) for number, quote in enumerate(quoted, 1)]
        yield self.answer("\n".join(lines), cited, [quote.hit for quote in quoted], refused)

    def _stuff(self, hits: Sequence[Hit]) -> Iterator[Event]:
        """All passages in one prompt, which begins as the one of the turn before if it can."""
        messages, used = self._continued(hits[: self.k]) or self._fit(hits[: self.k])
        turn = Turn(tuple(messages), tuple(used), self.question)
        self.library.turns.remember([*self.history, Message("user", self.original)], self.setting, turn)
        yield from self.write(messages, dict(enumerate(used, 1)))

    def _focus(self, search: Found) -> Iterator[Event]:
        """The best sentences of the first passages in a short prompt."""
        assert self.model is not None
        if self.model.reads and self.question != self.original:  # it was taught single questions
            yield from self._not_sure(search, self.words.single)
            return
        size = focus.READING if self.model.reads else focus.CHARACTERS
        best = search.hits[: min(self.k, focus.PASSAGES)]
        shown = focus.focused(self.question, best, search.weights, size, self._nearness)
        messages = focus.messages(self.words, shown, self.question)
        if not self.window.holds(messages):
            raise ContextOverflow("The question and one sentence exceed the window.", "Use a longer context.")
        if self.model.reads:
            yield from self._read(messages, shown, search)
        else:
            yield from self.write(messages, {number: hit for number, (hit, _) in enumerate(shown, 1)})

    def _read(self, messages: Sequence[Message], shown: Sequence[tuple[Hit, str]], search: Found) -> Iterator[Event]:
        """What a reader says over the sentence it has it from and the best others; if it is not sure, these and then
        its sentence, where it is another one."""
        assert self.model is not None
        held = short_answer.sampling(self.model, shown, self.words, self.question)
        said = self.model.chat(messages, self.window.sampling().replace(**held))
        self.count(said.usage)
        if short_answer.refuses(said):
            yield from self._extract(search, self.words.unsure, refused=True)
            return
        short = short_answer.read(said, shown)
        if short is not None and short.sure:
            yield from self._extract(search, f"{short.text} [1]", short.source)
            return
        yield from self._not_sure(search, self.words.not_sure, short.source if short else None)

    def _not_sure(self, search: Found, why: str, also: Quote | None = None) -> Iterator[Event]:
        """Quotations, where a reader's words would be a guess."""
        assert self.model is not None
        yield from self._instead(search, why.format(model=self.model.name), also)

    def _instead(self, search: Found, why: str, also: Quote | None = None) -> Iterator[Event]:
        """Quotations instead of an answer, and a note that says why."""
        self.notes.append(why)
        self.mode = "extract"
        yield from self._extract(search, also=also)

    def _refine(self, hits: Sequence[Hit]) -> Iterator[Event]:
        """An answer from the first passages, then improved passage by passage."""
        messages, used = self._fit(hits[: self.k])
        numbered = dict(enumerate(used, 1))
        rest = hits[len(used) :]
        if not rest:
            yield from self.write(messages, numbered)
            return
        text = self.ask(messages)
        for at, hit in enumerate(rest):
            number = len(used) + 1 + at
            numbered[number] = hit
            system, body = self.words.refine, self.words.refine_question.replace("{answer}", _plain(text))
            messages = self.window.fit([hit], body, self.question, system=system, first=number).messages
            if at < len(rest) - 1:
                text = self.ask(messages)
        yield from self.write(messages, numbered)

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
            self.count(completion.usage)
        numbered = {number: hit for number, hit in enumerate(hits, 1)}
        notes = [
            (number, _note(completion.text, number))
            for number, completion in enumerate(said, 1)
            if not _says_nothing(completion.text, self.words.nothing)
        ]
        if not notes:
            yield AnswerDelta(self.words.refused)
            yield self.answer(self.words.refused, [], list(hits), refused=True)
            return
        places = {number: hit.place for number, hit in numbered.items()}
        messages = self.window.fit_notes(notes, places, self.words.reduce, question, system=system)
        yield from self.write(messages, numbered)

    def _continued(self, hits: Sequence[Hit]) -> tuple[list[Message], list[Hit]] | None:
        """The turn before and what is new; None where it is not known, or what is new has no room."""
        last = self.last
        if last is None:
            return None
        known = {hit.passage_id for hit in last.hits}
        best = hits[: -(-len(hits) // 2)]  # the lower half seldom holds the answer, and conversations grow
        new = [hit for hit in best if hit.passage_id not in known]
        found = self.window.go_on(last.messages, new, self.words.question, self.original, len(last.hits) + 1)
        return (found.messages, [*last.hits, *new]) if found else None

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


def _plain(text: str) -> str:
    """An earlier answer as part of a template: its braces name nothing there."""
    return text.replace("{", "(").replace("}", ")")


def _says_nothing(text: str, nothing: str) -> bool:
    """Whether a model wrote the word that it was to write of a source that says nothing, or no word at all."""
    words = re.sub(r"\[\d+\]|\W", "", text).casefold()
    return words in ("", nothing.casefold())


def _note(text: str, number: int) -> str:
    """What a passage gave, with the one source number that it can have."""
    marks = Marks({number})
    return f"{(marks.feed(text) + marks.finish()).strip()}"
