"""A follow-up question made whole, so that it can be searched for without what was said before.

A model rewrites it, and is believed only if it says what was said; else the last question is put before one that
leans on it. Knows no library and no passages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..core.chat import Message
from . import prompts
from .fitting import Window
from .prompts import Wording
from .terms import terms

REWRITE_TOKENS = 96
"""A rewritten question is no longer."""
Ask = Callable[[Sequence[Message], int], str]
"""Asks the model, at most so many tokens."""


def make_whole(question: str, history: Sequence[Message]) -> str:
    """The question with the last one before it if it leans on that, without any model."""
    if not _leans(question):
        return question
    last = next((message.content.strip() for message in reversed(history) if message.role == "user"), "")
    return f"{last} {question}".strip()


def rewrite(question: str, history: Sequence[Message], words: Wording, window: Window, ask: Ask) -> str:
    """The question as the model rewrites it, where that can be believed."""
    rewritten = _rewritten(question, list(history), words, window, ask)
    return rewritten if rewritten and _is_faithful(rewritten, question, history) else make_whole(question, history)


def _rewritten(question: str, history: list[Message], words: Wording, window: Window, ask: Ask) -> str:
    while history:
        conversation = "\n".join(f"{message.role}: {message.content}" for message in history)
        text = prompts.fill(words.rewrite_question, conversation=conversation, question=question)
        messages = [Message("system", words.rewrite), Message("user", text)]
        if window.holds(messages):
            said = ask(messages, min(REWRITE_TOKENS, window.room)).strip()
            return " ".join(said.splitlines()[:1]).strip('"“”「」 ')
        del history[0]
    return ""


def _is_faithful(rewritten: str, question: str, history: Sequence[Message]) -> bool:
    """Whether a rewritten question says what was said before: small models write something else altogether."""
    asked, new = set(terms(question)), set(terms(rewritten))
    said = asked.union(*(terms(message.content) for message in history))
    return len(new & said) >= 0.6 * len(new) > 0 and len(new & asked) >= 0.3 * len(asked)


_LEANING = (
    "它", "他", "她", "这", "那", "其", "前者", "后者", "上面", "刚才", "还有", "呢", "为什么？",
    " it", "its ", " they", " them", "their ", " he ", " she ", " his ", " her ", " this", " that", " these", " those",
    "what about", "how about", "and ", "why?", "more?",
)  # fmt: skip


def _leans(question: str) -> bool:
    """Whether a question seems to need what was said before."""
    padded = f" {question.lower()} "
    return len(question) < 8 or any(word in padded for word in _LEANING)
