"""A library consulted for a conversation that somebody else holds: passages for their prompt, sources for the reply.

`answering` asks the model itself; here a host renders the prompt and streams the answer, and only the prompt's question
and the reply's source numbers are ours. Knows no host and no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from ..core.chat import Message
from . import citations, prompts
from .citations import Citation, Marks
from .followups import make_whole
from .hits import Hit
from .library import Library
from .prompts import Wording, wording
from .terms import language_of
from .uploads import document_name

QUOTE = 200
"""Characters of a quotation in a written source."""
Holds = Callable[[str, str], bool]
"""Whether the host's prompt has room for an instruction and a question with its passages."""


@dataclass
class Consulted:
    """What a library gave for one question, and what became of it."""

    question: str
    """What was searched for: the question, made whole where it leaned on the one before."""
    instruction: str = ""
    """For the system prompt; empty where no passage is used."""
    text: str = ""
    """The question with the passages."""
    hits: list[Hit] = field(default_factory=list)
    """What was found, best first; the first `used` of it stand in the prompt."""
    used: int = 0
    reason: str = ""
    """Why nothing, or not all of it, is used."""
    language: str = "en"
    marks: Marks = field(default_factory=lambda: Marks(()))
    """The reply's source numbers; it is fed what the model writes."""
    apart: bool = False
    """Whether the sources cannot become a part of the reply, where they should."""

    def citations(self) -> list[Citation]:
        """The sources of the reply as far as it was written."""
        numbered = dict(enumerate(self.hits[: self.used], 1))
        if not numbered or not self.marks.text.strip():
            return []
        return citations.settle(self.marks, numbered)[0]

    def written(self) -> str:
        """The sources as lines of text that stand under a reply; empty without any."""
        found = self.citations()
        if not found:
            return ""
        lines = [
            f"[{cited.number}] "
            + _no_link(f"{PurePath(document_name(cited.file)).name}, {cited.place}: “{_short(cited.quote)}”")
            for cited in found
        ]
        return "\n".join([f"\n\n{self.words.sources_heading}", *lines])

    @property
    def words(self) -> Wording:
        return wording(self.language)


def consult(
    library: Library,
    question: str,
    *,
    history: Sequence[Message] = (),
    k: int = 4,
    always: bool = False,
    holds: Holds = lambda instruction, text: True,
) -> Consulted:
    """The `k` passages for a question that somebody else's prompt has room for, lowest left out first.

    None is used where the library does not seem to hold an answer, unless `always`: people chat about other things too.
    Raises `BadInput` for an empty question or library.
    """
    library.check(question, k)
    language = language_of(question) or "en"
    words = wording(language)
    whole = make_whole(question.strip(), history)
    found = library.find(whole, k, fill=False)
    if not (always or found.answerable or found.nearly):
        return Consulted(whole, hits=found.hits, reason=words.refused, language=language)
    hits = found.hits
    for used in range(len(hits), 0, -1):
        text = prompts.fill(words.question, sources=_shown(hits[:used]), question=question.strip())
        if holds(words.system, text):
            shed = words.shed_passages.format(count=len(hits) - used) if used < len(hits) else ""
            marks = Marks(range(1, used + 1))
            return Consulted(whole, words.system, text, hits, used, shed, language, marks)
    return Consulted(whole, hits=hits, reason=words.no_room, language=language)


def _shown(hits: Sequence[Hit]) -> str:
    return prompts.sources(
        [
            (number, f"{PurePath(document_name(hit.file)).name}, {hit.place}", hit.text)
            for number, hit in enumerate(hits, 1)
        ]
    )


def without_sources(reply: str) -> str:
    """A reply without the sources that `Consulted.written` put under it: the next prompt needs the answer alone. What
    somebody wrote after them stays, and so does a list that is not ours.

    >>> without_sources("Yes [1].\\n\\nSources:\\n[1] a.txt, line 1: “It is.”")
    'Yes [1].'
    """
    return _WRITTEN.sub("", reply)


class Sourced(str):
    """A reply that may end with its sources. What is added goes on from the answer, in front of which they would stand:
    a host that continues a reply adds to it, and the sources are written anew at the end."""

    def __add__(self, more: str) -> str:
        return f"{without_sources(self)}{more}"


_HEADINGS = "|".join(re.escape(words.sources_heading) for words in (prompts.ENGLISH, prompts.CHINESE))
_WRITTEN = re.compile(rf"\n\n(?:{_HEADINGS})(?:\n\[\d+\] [^\n]*: “[^\n]*”)+")


def _no_link(text: str) -> str:
    """Text in which Markdown sees no link and no image: pages render replies, and a document could bring an address
    that runs a script, or one that tells its owner who reads it."""
    return text.replace("](", "]\u200b(")


def _short(quote: str) -> str:
    flat = " ".join(quote.split())
    return flat if len(flat) <= QUOTE else flat[: QUOTE - 1].rstrip() + "…"
