"""Guesses at the next tokens: those that followed the last time that the last four stood in the prompt or the answer.

An answer over documents repeats much of them. A pass that computes a few tokens of a sequence more takes little longer
where weights are of 16 bits or repacked, and each right guess saves a pass: prompt lookup decoding
(https://github.com/apoorvumang/prompt-lookup-decoding). Every token is drawn as ever, from the logits before it; a
guess only decides whether those are there already. Knows tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence

SPAN = 4
"""Tokens that must have stood together before. With three, more is guessed and less of it is right."""

MOST_GUESSED = 16
"""Tokens of a guess, at most."""


class Lookup:
    """The guesses for one sequence.

    >>> Lookup(3).guess([1, 7, 8, 9, 0, 4, 5, 6, 2, 7, 8, 9, 0], room=8)
    [4, 5, 6]
    """

    def __init__(self, most: int) -> None:
        """`most`: tokens of one guess."""
        self._most = most
        self._after: dict[tuple[int, ...], int] = {}
        self._known = 0

    def guess(self, tokens: Sequence[int], room: int) -> list[int]:
        """What may follow `tokens`, `room` at most, or nothing; they begin with what was given before."""
        for start in range(self._known, len(tokens) - SPAN):
            self._after[tuple(tokens[start : start + SPAN])] = start + SPAN
        self._known = max(self._known, len(tokens) - SPAN)
        at = self._after.get(tuple(tokens[-SPAN:]))
        guessed: list[int] = []
        if at is not None:
            for position in range(at, at + min(self._most, room)):  # past the end goes on with what was guessed
                guessed.append(tokens[position] if position < len(tokens) else guessed[position - len(tokens)])
        return guessed
