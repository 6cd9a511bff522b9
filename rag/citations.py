"""Source numbers in a model's answer, checked against the passages that it was given.

A number that no passage has is taken out of the text, while it streams, and reported. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .hits import Hit
from .paths import place_of
from .sentences import sentences
from .terms import FUNCTION_TERMS, terms

_MARKER = re.compile(
    r"\s?[\[【［(（]\s*(?:sources?|来源|资料|文献)?\s*[:：#]?\s*(\d{1,3}(?:\s*[,，、;；]\s*\d{1,3})*)\s*[\]】］)）]",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"\s?(?:[\[【［][^\]】］\n]{0,24}|[(（]\s*(?:s(?:o(?:u(?:r(?:c(?:es?)?)?)?)?)?|来源?|资料?|文献?)?[\s:：#\d,，、;；]{0,16})?$",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d{1,3}")
SUPPORT = 0.3
"""A passage that holds this share of an answer's terms is taken as its source."""


@dataclass(frozen=True)
class Citation:
    """Where a statement comes from."""

    number: int
    """As in the answer: [1]."""
    file: str
    page: str | None
    line: int
    quote: str
    """Word for word from the document: its text from `start` to `end`."""
    start: int
    end: int
    member: str | None = None
    """The file's name within an archive; `line` counts in that."""

    @property
    def place(self) -> str:
        """ "page 12", "line 30", or "notes.txt, line 30" in an archive."""
        return place_of(self.file, self.member, self.page, self.line)


def cite(number: int, hit: Hit, start: int | None = None, end: int | None = None) -> Citation:
    """A citation of a passage, or of a span of it given by offsets into the document."""
    first, last = hit.start if start is None else start, hit.end if end is None else end
    quote = hit.text[first - hit.start : last - hit.start]
    return Citation(number, hit.file, hit.page_at(first), hit.line_at(first), quote, first, last, hit.member)


class Marks:
    """Reads an answer as it streams and keeps only the source numbers that are there."""

    def __init__(self, valid: Collection[int]) -> None:
        self.removed: list[str] = []
        """What was taken out, as it stood there."""
        self.cited: dict[int, list[int]] = {}
        """Source number → where in the shown text it is cited, in the order of the first mention."""
        self.text = ""
        """All that was shown."""
        self._valid = frozenset(valid)
        self._held = ""

    def feed(self, piece: str) -> str:
        """The text that may be shown now; the beginning of a source number waits for its end."""
        self._held += piece
        waiting = _OPENING.search(self._held)
        cut = waiting.start() if waiting else len(self._held)
        ready, self._held = self._held[:cut], self._held[cut:]
        return self._show(ready)

    def finish(self) -> str:
        """What was still held back."""
        ready, self._held = self._held, ""
        return self._show(ready)

    def _show(self, ready: str) -> str:
        shown, at = "", 0
        for found in _MARKER.finditer(ready):
            if found.group().lstrip()[0] in "(（" and not re.search("[a-z来资文]", found.group(), re.IGNORECASE):
                continue
            shown += ready[at : found.start()]
            numbers = [int(number) for number in _NUMBER.findall(found.group(1))]
            for number in dict.fromkeys(numbers):
                if number in self._valid:
                    self.cited.setdefault(number, []).append(len(self.text) + len(shown))
                    shown += f"[{number}]"
                else:
                    self.removed.append(f"[{number}]")
            at = found.end()
        shown += ready[at:]
        self.text += shown
        return shown


def of_answer(text: str, cited: Mapping[int, Sequence[int]], hits: Mapping[int, Hit]) -> list[Citation]:
    """A citation for each number, quoting the sentence of its passage nearest to what the answer says there; without a
    place in the answer, to all of it."""
    found = []
    for number, places in cited.items():
        statement = _statement(text, places[0]) if places else text
        start, end = _nearest(statement, hits[number])
        found.append(cite(number, hits[number], start, end))
    return found


def supporting(text: str, hits: Mapping[int, Hit]) -> list[int]:
    """The passages that share an answer's words, but for those that say nothing, such as "the" and "is"; for a model
    that named no source. Best first."""
    said = set(terms(text)) - FUNCTION_TERMS
    if not said:
        return []
    shares = {number: len(said & set(terms(hit.text))) / len(said) for number, hit in hits.items()}
    best = sorted(shares, key=lambda number: (-shares[number], number))
    return [number for number in best[:2] if shares[number] >= SUPPORT]


def settle(marks: Marks, hits: Mapping[int, Hit]) -> tuple[list[Citation], bool]:
    """The citations of an answer that was read to its end, and whether it named their numbers itself; without numbers
    they are the passages that share its words."""
    cited: Mapping[int, Sequence[int]] = marks.cited
    if not cited:
        cited = {number: [] for number in supporting(marks.text, hits)}
    return of_answer(marks.text, cited, hits), bool(marks.cited)


def _statement(text: str, place: int) -> str:
    """The sentence that ends at, or holds, this place of the answer."""
    before = text[:place].rstrip()
    spans = sentences(before)
    return before[slice(*spans[-1])] if spans else text


def _nearest(statement: str, hit: Hit) -> tuple[int, int]:
    said = set(terms(statement))
    best, best_score = (hit.start, hit.end), 0.0
    for start, end in sentences(hit.text):
        held = set(terms(hit.text[start:end]))
        score = len(said & held) / (len(said | held) or 1)
        if score > best_score:
            best, best_score = (hit.start + start, hit.start + end), score
    return best
