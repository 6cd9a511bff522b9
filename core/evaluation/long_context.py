"""Perplexity at the end of long contexts: does the model still read well there?

The same last tokens are scored behind ever more text; a model that copes stays near its figure in the native window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import BadInput
from ..model import Model, load
from .perplexity import exp_mean

Alpha = float | Literal["auto"]


@dataclass(frozen=True)
class Point:
    """The perplexity of a text's last tokens at one length."""

    length: int
    """Tokens of context and tail together."""
    alpha: Alpha
    perplexity: float
    ratio: float
    """To the same tokens' perplexity inside the native window."""


def curve(
    name: str | Path,
    text: str,
    points: Sequence[tuple[int, Alpha]],
    *,
    tail: int = 2048,
    on_point: Callable[[Point], None] | None = None,
    **options: Any,
) -> list[Point]:
    """Score the last `tail` tokens of `text` behind contexts of given lengths and alphas, and inside the native window.

    The text is cut to the longest length, from its start, so that every point scores the same tokens. The first answer
    is the native window itself. `options` are those of `load`. Raises `BadInput` for a text that is too short.
    """
    with load(name, **options) as model:
        tokens = model.engine.tokenize(text)
        native = model.native_context
        longest = max([native, *(length for length, _ in points)])
        if len(tokens) < longest:
            raise BadInput(f"The text has {len(tokens):,} tokens; {longest:,} are needed.", "Give a longer one.")
        tokens = tokens[:longest]
        base = tail_perplexity(model, tokens, native, tail)
    found = [Point(native, 1.0, base, 1.0)]
    for length, alpha in points:
        if on_point is not None:
            on_point(found[-1])
        with load(name, **options | {"context": length, "alpha": alpha, "cells": length}) as model:
            value = tail_perplexity(model, tokens, length, tail)
        found.append(Point(length, alpha, value, value / base))
    if on_point is not None:
        on_point(found[-1])
    return found


def tail_perplexity(model: Model, tokens: Sequence[int], length: int, tail: int) -> float:
    """Perplexity of the last `tail` of `tokens` behind the text before them, `length` tokens in all, BOS included."""
    bos = model.prompt_tokens("")
    if not 0 < tail < length - len(bos):
        raise BadInput(f"A tail of {tail} tokens leaves no context in {length}.", "Choose a shorter tail.")
    context = [*bos, *tokens[len(tokens) - length + len(bos) : len(tokens) - tail]]
    return exp_mean(model.engine.score(context, [list(tokens[len(tokens) - tail :])])[0])
