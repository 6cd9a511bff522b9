"""A whole document in a few sentences: part by part in one batch, then the parts' summaries, until one is left.

Without a model, the sentences that are most like the document as a whole, word for word. Knows no framework.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from ..core.chat import Message
from ..core.engines.base import Usage
from ..core.errors import BadInput, ContextOverflow, UnreadableDocument
from ..core.sampling import Sampling
from . import citations, prompts
from .answers import Answer, ChatModel, choose, together
from .extract import LONGEST
from .fitting import ANSWER_TOKENS
from .hits import Hit
from .library import Library
from .prompts import wording
from .sentences import sentences
from .terms import language_of, terms

LANGUAGES = ("zh", "en")
SENTENCES = 5
"""How many sentences a summary by quotation has."""


def summarize(
    library: Library,
    model: ChatModel | None,
    file: Path | str,
    *,
    language: str | None = None,
    sampling: Sampling | Mapping[str, Any] | None = None,
) -> Answer:
    """A summary of one file of the library, in its own language unless another ("zh", "en") is named.

    Raises `BadInput` for other languages, and `UnreadableDocument` for a file without text.
    """
    path = library.resolve(file)
    return summarize_passages(
        model, library.passages(path), title=PurePath(path).name, language=language, sampling=sampling
    )


def summarize_passages(
    model: ChatModel | None,
    hits: Sequence[Hit],
    *,
    title: str,
    language: str | None = None,
    sampling: Sampling | Mapping[str, Any] | None = None,
) -> Answer:
    """`summarize` for passages that are at hand already, in the order of the document called `title`."""
    refuse_language(language)
    if not any(hit.text.strip() for hit in hits):
        raise UnreadableDocument(f"{title} holds no text to summarize.", "Give a document with text.")
    spoken = language or language_of("".join(hit.text for hit in hits[:20])) or "en"
    mode, notes = choose(model, spoken)
    if mode == "focus":
        raise BadInput(
            f"{title} cannot be summarized by a model that reads a few sentences.", "Use a chat model, or none."
        )
    if model is None or mode == "extract":
        return _quoted(hits, notes)
    return _Summary(model, title, spoken, Sampling.of(sampling), notes).of(hits)


def refuse_language(language: str | None) -> None:
    """Raise `BadInput` for a language in which no summary is written. None is the document's own."""
    if language not in (None, *LANGUAGES):
        raise BadInput(
            f"{language!r} is no language of summaries.", f"Valid: {', '.join(LANGUAGES)}; None for the document's own."
        )


class _Summary:
    def __init__(self, model: ChatModel, title: str, language: str, sampling: Sampling, notes: list[str]) -> None:
        self.model, self.title, self.words, self.notes = model, title, wording(language), notes
        room = sampling.max_tokens or max(1, min(ANSWER_TOKENS, model.context_length // 4))
        self.sampling, self.room = sampling.replace(max_tokens=room), room
        self.usage = Usage()

    def of(self, hits: Sequence[Hit]) -> Answer:
        """Summaries of parts, then of summaries."""
        parts = self._join([hit.text for hit in hits])
        texts = self._ask([self._prompt(self.words.summary_question, part) for part in parts])
        while len(texts) > 1:
            groups = self._join(texts)
            if len(groups) >= len(texts):
                # Each summary alone fills the window: nothing more can be merged.
                break
            texts = self._ask([self._prompt(self.words.summary_merge, group) for group in groups])
        return Answer("\n\n".join(texts).strip(), [], "map_reduce", self.notes, usage=self.usage, hits=list(hits))

    def _prompt(self, body: str, text: str) -> list[Message]:
        shown = prompts.sources([(1, self.title, text)])
        return [
            Message("system", self.words.summary),
            Message("user", prompts.fill(body, sources=shown, title=self.title)),
        ]

    def _fits(self, text: str) -> bool:
        prompt = max(
            self.model.count_tokens(self._prompt(body, text))
            for body in (self.words.summary_question, self.words.summary_merge)
        )
        return prompt + self.room <= self.model.context_length

    def _join(self, texts: Sequence[str]) -> list[str]:
        """As few parts as fit the window, in order; a text too long for it is halved."""
        parts: list[str] = []
        waiting = list(reversed(texts))
        while waiting:
            text = waiting.pop()
            joined = f"{parts[-1]}\n{text}" if parts else text
            if parts and self._fits(joined):
                parts[-1] = joined
            elif self._fits(text):
                parts.append(text)
            elif len(text) < 2:
                raise ContextOverflow(
                    f"The window of {self.model.name} has no room for a summary.", "Use a longer context."
                )
            else:
                waiting += [text[len(text) // 2 :], text[: len(text) // 2]]
        return parts

    def _ask(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        said = self.model.chat_batch(conversations, self.sampling)
        for completion in said:
            self.usage = together(self.usage, completion.usage)
        return [completion.text.strip() for completion in said]


def _quoted(hits: Sequence[Hit], notes: list[str]) -> Answer:
    """The sentences whose words are the document's most frequent ones, spread over it, in its order."""
    counts: Counter[str] = Counter()
    found: list[tuple[Hit, int, int, set[str]]] = []
    for hit in hits:
        for start, end in sentences(hit.text):
            held = set(terms(hit.text[start:end]))
            counts.update(held)
            if len(held) >= 4 and end - start <= LONGEST:
                found.append((hit, hit.start + start, hit.start + end, held))
    size = max(1, len(found))

    def worth(position: int) -> float:
        held = found[position][3]
        centrality = sum(math.log1p(counts[term]) for term in sorted(held)) / math.sqrt(len(held) + 12)
        return centrality * (1.15 - 0.3 * position / size)

    chosen: list[int] = []
    for position in sorted(range(len(found)), key=lambda at: (-worth(at), at)):
        held = found[position][3]
        if all(len(held & found[other][3]) < 0.5 * len(held) for other in chosen):
            chosen.append(position)
        if len(chosen) == SENTENCES:
            break
    cited = []
    for number, position in enumerate(sorted(chosen), 1):
        hit, start, end, _ = found[position]
        cited.append(citations.cite(number, hit, start, end))
    text = "\n".join(f"{' '.join(citation.quote.split())} [{citation.number}]" for citation in cited)
    return Answer(text, cited, "extract", notes, hits=list(hits))
