"""A follow-up question made whole, so that it can be searched for without what was said before.

A model rewrites it, and is believed only if it says what was said; else the last question is put before one that
leans on it. Knows no library and no passages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..core.chat import Message
from . import prompts
from .fitting import Window
from .prompts import Wording
from .terms import language_of, terms

REWRITE_TOKENS = 96
"""A rewritten question is no longer."""
Ask = Callable[[Sequence[Message], int], str]
"""Asks the model for one line of at most so many tokens."""


def make_whole(question: str, history: Sequence[Message]) -> str:
    """The question with the last one before it if it leans on that, without any model."""
    last = next((message.content for message in reversed(history) if message.role == "user"), "")
    return put_after(last, question)


def put_after(last: str, question: str) -> str:
    """The question with the `last` one before it if it leans on that."""
    return f"{last.strip()} {question}".strip() if _leans(question) else question


def rewrite(question: str, history: Sequence[Message], words: Wording, window: Window, ask: Ask) -> str:
    """The question as the model rewrites it, where it leans on what was said and the rewriting can be believed."""
    if not _leans(question):
        return question
    rewritten = _rewritten(question, list(history), words, window, ask)
    return rewritten if rewritten and _is_faithful(rewritten, question, history) else make_whole(question, history)


def _rewritten(question: str, history: list[Message], words: Wording, window: Window, ask: Ask) -> str:
    while history:
        conversation = "\n".join(f"{message.role}: {message.content}" for message in history)
        text = prompts.fill(words.rewrite_question, conversation=conversation, question=question)
        messages = [Message("system", words.rewrite), Message("user", text)]
        if window.holds(messages):
            return _line(ask(messages, min(REWRITE_TOKENS, window.room)))
        del history[0]
    return ""


def _line(said: str) -> str:
    return " ".join(said.strip().splitlines()[:1]).strip('"“”「」 ')


def _is_faithful(rewritten: str, question: str, history: Sequence[Message]) -> bool:
    """Whether a rewritten question says what was said before: small models write something else altogether."""
    if question.rstrip().endswith(("?", "？")) and not rewritten.endswith(("?", "？")):
        return False  # an answer, not the question
    asked, new = set(terms(question)), set(terms(rewritten))
    said = asked.union(*(terms(message.content) for message in history))
    return len(new & said) >= 0.6 * len(new) > 0 and len(new & asked) >= 0.3 * len(asked)


_LEANING = re.compile(
    r"\b(it|its|they|them|their|he|she|him|his|her|this|these|those|ones?(?! of))\b"
    r"|(^|\b(is|was|does|did|about|after|and|before|for|from|in|like|of|on|than|to|with) )that\b"
    r"|\b(what|how) about\b|^and\b|\bwhy\?|\bmore\?"
    r"|(?<!其)[它她]|(?<![其吉])他|这|那|(?<![尤极耳])其(?![他它她中余实])|前者|后者|上面|刚才|还有|呢|为什么？"
)
_ASKING = re.compile(
    r"为什么|什么|怎么样?|怎样|如何|哪[里儿个些年天]|谁|多[少久大长远高]|几[个年天]?|何时|时候|时间|地[方点]|[是有在的了吗要得能钱]|\W"
)
"""Words and signs that ask and say nothing of what."""


def _leans(question: str) -> bool:
    """Whether a question seems to need what was said before: it points there, or names nothing itself."""
    if _LEANING.search(question.lower()):
        return True
    if language_of(question) == "zh":
        return len(_ASKING.sub("", question)) < 2
    return len(question) < 8
