"""The prompts of `/v1/completions`: a text or token ids, for a base or a chat model, told back or not."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ...core import Delta, Message, Model, Sampling
from ...core.engines import streams
from ...core.errors import UnsupportedFeature
from .openai_replies import Echo
from .openai_types import CompletionRequest


@dataclass(frozen=True)
class Prompt:
    """One prompt: a text, or ids that are computed as they are."""

    content: str | list[int]
    as_turn: bool = False
    """A text that becomes a turn of the user: a chat model given bare text repeats it or talks to itself."""

    def answer(self, model: Model, sampling: Sampling) -> AsyncIterator[Delta]:
        """The continuation."""
        if isinstance(self.content, list):
            return streams.astream(model.engine, model.token_request(self.content, sampling))
        if self.as_turn:
            return model.astream_chat([Message("user", self.content)], sampling)
        return model.astream_complete(self.content, sampling)

    def ids(self, model: Model) -> list[int]:
        """What the model computes."""
        if isinstance(self.content, list):
            return self.content
        if self.as_turn:
            return model.chat_tokens([Message("user", self.content)])
        return model.prompt_tokens(self.content)

    async def echo(self, model: Model, logprobs: int | None) -> Echo:
        """The prompt itself; with `logprobs`, each token's log-probability after those before it."""
        return await asyncio.to_thread(self._echo, model, logprobs)

    def _echo(self, model: Model, logprobs: int | None) -> Echo:
        if logprobs is None and isinstance(self.content, str):
            return Echo(self.content)
        if logprobs:
            raise UnsupportedFeature("Alternatives to a prompt's tokens are not told.", 'Set "logprobs": 0.')
        if self.as_turn:
            raise UnsupportedFeature(
                "The prompt becomes a turn of a chat model, whose other tokens are no part of it.",
                'Add "raw": true, or send token ids.',
            )
        ids = self.ids(model)
        pieces = [model.engine.token_bytes(token) for token in ids]
        text = self.content if isinstance(self.content, str) else b"".join(pieces).decode("utf-8", "replace")
        if logprobs is None:
            return Echo(text)
        (scores,) = model.engine.score(ids[:1], [ids[1:]])
        found: list[float | None] = [None, *(score if math.isfinite(score) else -9999.0 for score in scores)]
        return Echo(text, tuple(zip(ids, pieces, found, strict=True)))


def prompts_of(model: Model, asked: CompletionRequest) -> list[Prompt]:
    """The prompts of a request, which are one or many, texts or ids."""
    given = asked.prompt
    if isinstance(given, str):
        contents: list[str | list[int]] = [given]
    elif isinstance(given[0], int):
        contents = [[int(token) for token in given if isinstance(token, int)]]
    else:
        contents = [content for content in given if not isinstance(content, int)]
    wraps = not asked.raw and model.kind == "chat"
    return [Prompt(content, wraps and isinstance(content, str)) for content in contents]
