"""What a reader may say, as a grammar: words that stand in one of its sources with that source's number, or that there
is no answer.

A small model that copies loses its place; held to the text it cannot. Knows no model and no library.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from .reading_bounds import bounds

_OPENING = frozenset("《〈「『“‘\"'（([【")
_SIGNS, _MINUS = frozenset("+-−±$¥￥€£"), frozenset("-−")
"""What a number may begin with, and what it cannot be without."""
_IN_NUMBERS, _IN_WORDS = frozenset(".,:．，：/"), frozenset("'’\u00ad-")
MOST_BOUND = 1000
"""Characters before the places where answers may end first: each may be a rule."""
_GAP = "…"
"""Stands between sentences of a source that do not follow one another."""
_CHINESE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


def grammar(sources: Sequence[str], absent: str, question: str = "") -> str:
    """GBNF of the answers from `sources`, which are as the prompt shows them, or of `absent`.

    Each character is a rule that goes on to the next one or, where a word ends, to the source's number. Words in
    letters and numbers are neither begun nor left in the middle, nor what `bounds` keeps together for the question.
    """
    rules, answers = list[str](), [_literal(absent)]
    for number, text in enumerate(sources, 1):
        if made := list(_rules(number, text, question)):
            answers.append(f'start-{number} "[{number}]"')
            rules += made
    return "\n".join([f"root ::= {' | '.join(answers)}", *rules])


def _rules(number: int, text: str, question: str) -> Iterator[str]:
    """Of one source; nothing where no answer may begin in it."""
    bound = bounds(question, text, _starts(text))
    ways = [(start, end) for start, end in bound.least_ends.items() if all(map(_stands, text[start:end]))]
    if not ways:
        return
    if sum(end - start for start, end in ways) > MOST_BOUND:
        ways = [(start, start + 1) for start, _ in ways]
    yield f"start-{number} ::= {' | '.join(_rule('at', number, *way) for way in ways)}"
    written = set[str]()
    while ways:
        place, end = ways.pop()
        own, after = (_rule(kind, number, place, end) for kind in ("at", "after"))
        if own in written:
            continue
        written.add(own)
        yield f"{own} ::= {_literal(text[place])} {after}"
        goes_on = place + 1 < len(text) and _stands(text[place + 1])
        whole = not (inside(text, place + 1) or place + 1 in bound.broken or text[place].isspace())
        following = []
        if goes_on:
            ways.append((place + 1, end))
            following.append(_rule("at", number, place + 1, end))
        if place + 1 >= end and (whole or not goes_on):
            following.append('""')
        yield f"{after} ::= {' | '.join(following)}"


def _rule(kind: str, number: int, place: int, end: int) -> str:
    """A rule's name: its source and place, and where the answer may end first, as long as that is ahead."""
    return f"{kind}-{number}-{place}" if place + 1 >= end else f"{kind}-{number}-{place}-{end}"


def _starts(text: str) -> list[int]:
    """Where an answer may begin."""
    return [
        place
        for place, character in enumerate(text)
        if (character.isalnum() or character in _OPENING or _signs(text, place)) and not inside(text, place)
    ]


def inside(text: str, place: int) -> bool:
    """Whether a word in letters or a number goes through the boundary before `place`: 13,011, -5, don't, Müller.

    Chinese characters are words of their own.
    """
    if not 0 < place < len(text):
        return False
    left, right = text[place - 1], text[place]
    if _joins(left) and _joins(right):
        return True
    if left in _MINUS and right.isdigit() and _signs(text, place - 1):
        return True
    return _within(text, place - 1) or _within(text, place)


def _within(text: str, place: int) -> bool:
    """Whether a mark stands in the middle of a number or a word."""
    before, mark, after = text[max(0, place - 1) : place], text[place], text[place + 1 : place + 2]
    if mark in _IN_NUMBERS and before.isdigit() and after.isdigit():
        return True
    return mark in _IN_WORDS and before.isalpha() and after.isalpha() and _joins(before) and _joins(after)


def _signs(text: str, place: int) -> bool:
    """Whether a sign stands in front of a number."""
    if text[place] not in _SIGNS or not text[place + 1 : place + 2].isdigit():
        return False
    return place == 0 or not text[place - 1].isalnum()


def _joins(character: str) -> bool:
    """Whether a character goes on without a boundary: letters but Chinese ones, digits, and marks on letters."""
    whole = character.isalnum() or unicodedata.category(character).startswith("M")
    return whole and not _CHINESE.match(character)


def _stands(character: str) -> bool:
    """Whether an answer may go over a character."""
    return character.isprintable() and character != _GAP


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
