"""What a reader may say, as a grammar: words that stand in one of its sources with that source's number, or that there
is no answer.

A small model that copies loses its place; held to the text it cannot. Knows no model and no library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_OPENING = frozenset("《〈「『“‘\"'（([【")
_GAP = "…"
"""Stands between sentences of a source that do not follow one another."""


def grammar(sources: Sequence[str], absent: str) -> str:
    """GBNF of the answers from `sources`, which are as the prompt shows them, or of `absent`.

    Each character is a rule that goes on to the next one or, where a word ends, to the source's number. Words in
    letters and numbers are neither begun nor left in the middle.
    """
    rules = [rule for number, text in enumerate(sources, 1) for rule in _rules(number, text)]
    answers = [f'start-{number} "[{number}]"' for number, text in enumerate(sources, 1) if any(_starts(text))]
    return "\n".join([f"root ::= {' | '.join([_literal(absent), *answers])}", *rules])


def _rules(number: int, text: str) -> Iterator[str]:
    if starts := [f"at-{number}-{place}" for place in _starts(text)]:
        yield f"start-{number} ::= {' | '.join(starts)}"
    for place, character in enumerate(text):
        if not _stands(character):
            continue
        yield f"at-{number}-{place} ::= {_literal(character)} after-{number}-{place}"
        goes_on = place + 1 < len(text) and _stands(text[place + 1])
        ends = not goes_on or (not _inside(text, place + 1) and not character.isspace())
        following = [f"at-{number}-{place + 1}"] * goes_on + ['""'] * ends
        yield f"after-{number}-{place} ::= {' | '.join(following)}"


def _starts(text: str) -> list[int]:
    """Where an answer may begin."""
    return [
        place
        for place, character in enumerate(text)
        if (character.isalnum() or character in _OPENING) and not _inside(text, place)
    ]


def _inside(text: str, place: int) -> bool:
    """Whether a word in letters or a number goes through here."""
    return 0 < place < len(text) and _joins(text[place - 1]) and _joins(text[place])


def _joins(character: str) -> bool:
    return character.isascii() and character.isalnum()


def _stands(character: str) -> bool:
    """Whether an answer may go over a character."""
    return character.isprintable() and character != _GAP


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
