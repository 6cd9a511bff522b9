"""Perplexity: how well a model foresees a text. Knows any engine that scores tokens.

The figure is exp of the mean negative log-probability per token, so texts compare only under one tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import BadInput
from ..model import Model


@dataclass(frozen=True)
class Perplexity:
    """A perplexity and over how many tokens it was taken."""

    value: float
    tokens: int


def perplexity(
    model: Model,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Perplexity of `text` in windows of `window` tokens (default: the native context, at most 2,048).

    Windows advance by `stride` tokens (default: half a window); each token is scored once, with what stands before it
    in its window, BOS first where the model wants one. Windows that advance by a whole window score tokens without
    context too, as llama.cpp's own tool does not. Raises `BadInput` for a text of fewer than two tokens.
    """
    window = window or min(model.native_context, 2048)
    stride = stride or window // 2
    if not 1 <= stride <= window - 1:
        raise BadInput(f"stride must be at least 1 and less than the window of {window}, not {stride}.")
    tokens = model.engine.tokenize(text)
    if len(tokens) < 2:
        raise BadInput("Perplexity needs a text of at least two tokens.", "Give a longer one.")
    bos = model.prompt_tokens("")
    scores: list[float] = []
    for start, first, end in _windows(len(tokens), window - len(bos), stride, skip=0 if bos else 1):
        context = [*bos, *tokens[start:first]]
        scores += model.engine.score(context, [tokens[first:end]])[0]
        if on_progress is not None:
            on_progress(end, len(tokens))
    return Perplexity(exp_mean(scores), len(scores))


def exp_mean(log_probabilities: Sequence[float]) -> float:
    """exp(-mean): perplexity from natural-log probabilities."""
    return math.exp(-math.fsum(log_probabilities) / len(log_probabilities))


def _windows(length: int, window: int, stride: int, skip: int) -> list[tuple[int, int, int]]:
    """(start of the window, first token to score, end) so that every token after `skip` is scored once."""
    found, done = [], skip
    while done < length:
        end = min(length, window if done == skip else done + stride)
        found.append((max(0, end - window), done, end))
        done = end
    return found
