"""What a reading model said, checked against what it was shown: a few words, and where in a document they stand.

A small reader copies its answer from the sources or makes no sense, and its own log-probabilities tell how sure it is.
Knows no library and no model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.engines.base import Completion
from .answers import ChatModel
from .extract import Quote
from .focus import in_one_line
from .hits import Hit
from .prompts import CHINESE, ENGLISH, Wording
from .reading_grammar import grammar, inside
from .sentences import sentences

SURE = -0.4
"""Log-probability of its least likely token from which an answer is shown: of those above eight in ten are right."""
GREEDY: Mapping[str, Any] = {
    "temperature": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "stop": (),
    "logprobs": 0,
}  # fmt: skip
"""How a reader is asked: it copies, so nothing is drawn, and the repeated digit of a year is no fault."""
LATER = -1.0
"""Added to the logit of the bracket after an answer: greedily it comes too early, "2,173" instead of "2,173 seats"."""
_BRACKETS = {"(": r"[(\[]", ")": r"[)\]]"}
_NUMBER = re.compile(r"\s*\[(\d{1,3})\]\s*[.。]?\s*$")
_ABSENT = tuple(words.absent.rstrip("。.") for words in (CHINESE, ENGLISH))


@dataclass(frozen=True)
class ShortAnswer:
    """Words of a source."""

    text: str
    source: Quote
    """The sentence that holds the words."""
    logprob: float
    """Of the answer's least likely token."""

    @property
    def sure(self) -> bool:
        """Whether the reader may be believed."""
        return self.logprob >= SURE


def sampling(model: ChatModel, shown: Sequence[tuple[Hit, str]], words: Wording, question: str) -> dict[str, Any]:
    """How a reader is asked of `shown`, which `focus.focused` gave: greedily, and held to what stands there."""
    held = grammar([in_one_line(text) for _, text in shown], words.absent, question)
    return {**GREEDY, "grammar": held, "logit_bias": {model.prompt_tokens("[")[-1]: LATER}}


def refuses(completion: Completion) -> bool:
    """Whether the reader said, in either language, that the sources hold no answer."""
    return completion.text.strip().startswith(_ABSENT)


def words_of(completion: Completion) -> str:
    """What was said, without the source's number and the full stop at the end."""
    return _NUMBER.sub("", completion.text).strip().rstrip("。.").strip()


def read(completion: Completion, shown: Sequence[tuple[Hit, str]]) -> ShortAnswer | None:
    """The answer where a source that the model was shown holds its words, the one that it names first; else None.

    `shown` is what `focus.focused` gave. White space makes no difference; of numbers and words in letters no part
    counts. An answer that was cut off is none, and one without log-probabilities is not sure.
    """
    named, text = _NUMBER.search(completion.text), words_of(completion)
    if completion.finish_reason != "stop" or not any(map(str.isalnum, text)):
        return None
    number = int(named[1]) if named else 0
    for at in sorted(range(len(shown)), key=lambda at: at != number - 1):
        hit, passage = shown[at]
        if _find(text, passage) and (source := _sentence(text, hit, passage)):
            logprob = min((one.logprob for one in completion.logprobs), default=float("-inf"))
            return ShortAnswer(text, source, logprob)
    return None


def _sentence(text: str, hit: Hit, shown: str) -> Quote | None:
    """The first sentence of a passage that was shown and holds the words; failing that, those they begin and end in."""
    spans, seen = sentences(hit.text), _flat(shown)
    for start, end in spans:
        if _find(text, hit.text, start, end) and _flat(hit.text[start:end]) in seen:
            return Quote(hit, hit.start + start, hit.start + end, 0.0)
    if (found := _find(text, hit.text)) is None:
        return None
    touched = [span for span in spans if span[1] > found.start() and span[0] < found.end()]
    return Quote(hit, hit.start + touched[0][0], hit.start + touched[-1][1], 0.0) if touched else None


def _find(words: str, text: str, start: int = 0, end: int | None = None) -> re.Match[str] | None:
    """Words with any white space in them, and no part of a longer number or word; marks like [3] may be (3)."""
    characters = [_BRACKETS.get(one, re.escape(one)) for one in _flat(words)]
    matches = re.compile(r"\s*".join(characters)).finditer(text, start, len(text) if end is None else end)
    whole = (one for one in matches if not inside(text, one.start()) and not inside(text, one.end()))
    return next(whole, None)


def _flat(text: str) -> str:
    return "".join(text.split())
