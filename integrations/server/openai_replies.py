"""Answers in OpenAI's form, whole and piece by piece. Knows no request and no route."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...core import Completion, Delta, TokenLogprob, Usage

Name = Callable[[int, bytes], str]
"""How a token is written in `logprobs`."""


@dataclass(frozen=True)
class Heading:
    """What every piece of one answer says."""

    kind: str
    """chat.completion or text_completion."""
    model: str
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    as_ids: bool = False
    """Tokens in `logprobs` are written as "token_id:123"."""

    def __post_init__(self) -> None:
        if not self.id:
            prefix = "chatcmpl" if self.kind.startswith("chat") else "cmpl"
            object.__setattr__(self, "id", f"{prefix}-{secrets.token_hex(12)}")

    @property
    def is_chat(self) -> bool:
        """Whether this is an answer to a conversation."""
        return self.kind == "chat.completion"

    def whole(self, choices: Sequence[dict[str, Any]], usage: Usage, **more: Any) -> dict[str, Any]:
        """A whole answer."""
        return self._head(self.kind) | {"choices": list(choices), "usage": usage_of(usage)} | more

    def piece(self, choices: Sequence[dict[str, Any]], usage: Usage | None = None, **more: Any) -> dict[str, Any]:
        """One piece of a streamed answer."""
        head = self._head("chat.completion.chunk" if self.is_chat else self.kind) | {"choices": list(choices)}
        return head | ({"usage": usage_of(usage)} if usage else {}) | more

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def choice(self, index: int, answer: Completion, echoed: Echo | None = None) -> dict[str, Any]:
        """One of a whole answer's choices."""
        found = self._logprobs(answer.logprobs, echoed)
        text = (echoed.text if echoed else "") + answer.text
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text, "refusal": None}} if self.is_chat else {"text": text}
        )
        return {"index": index, **said, "logprobs": found, "finish_reason": answer.finish_reason}

    def change(
        self, index: int, text: str, finish_reason: str | None, logprobs: Sequence[TokenLogprob] = (), at: int = 0
    ) -> dict[str, Any]:
        """One choice in a piece; `at` is where its text stands in the answer."""
        return self._change(index, text, finish_reason, self._logprobs(logprobs, None, at) if logprobs else None)

    def echo(self, index: int, echoed: Echo) -> dict[str, Any]:
        """The first piece of a continuation: the prompt."""
        return self._change(index, echoed.text, None, self._logprobs((), echoed))

    def _change(self, index: int, text: str, finish_reason: str | None, found: dict[str, Any] | None) -> dict[str, Any]:
        said = {"delta": {"content": text} if text else {}} if self.is_chat else {"text": text}
        return {"index": index, **said, "logprobs": found, "finish_reason": finish_reason}

    def opening(self, index: int) -> dict[str, Any]:
        """The first piece of a chat: who speaks."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _logprobs(self, found: Sequence[TokenLogprob], echoed: Echo | None, at: int = 0) -> dict[str, Any] | None:
        if self.is_chat:
            return {"content": [self._entry(one) for one in found], "refusal": None} if found else None
        if not found and (echoed is None or not echoed.pieces):
            return None
        return self._columns(found, echoed, at)

    def _entry(self, one: TokenLogprob) -> dict[str, Any]:
        top = [self._named(token, text, logprob) for token, text, logprob in one.top]
        return self._named(one.token, one.text, one.logprob) | {"top_logprobs": top}

    def _named(self, token: int, text: bytes, logprob: float) -> dict[str, Any]:
        return {"token": self._name(token, text), "logprob": _finite(logprob), "bytes": list(text)}

    def _name(self, token: int, text: bytes) -> str:
        return f"token_id:{token}" if self.as_ids else text.decode("utf-8", "replace")

    def _columns(self, found: Sequence[TokenLogprob], echoed: Echo | None, at: int) -> dict[str, Any]:
        """The form of `/v1/completions`: four lists, a prompt that is echoed first."""
        rows: list[tuple[int, bytes, float | None, tuple[tuple[int, bytes, float], ...]]] = [
            (token, text, logprob, ()) for token, text, logprob in (echoed.pieces if echoed else ())
        ]
        rows += [(one.token, one.text, one.logprob, one.top) for one in found]
        columns: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, text, logprob, top in rows:
            columns["tokens"].append(self._name(token, text))
            columns["token_logprobs"].append(None if logprob is None else _finite(logprob))
            columns["top_logprobs"].append({self._name(t, b): _finite(p) for t, b, p in top} if top else None)
            columns["text_offset"].append(at)
            at += len(text.decode("utf-8", "ignore"))
        return columns


@dataclass(frozen=True)
class Echo:
    """A prompt that is told back: its text and, where asked for, each token's log-probability (none for the first)."""

    text: str
    pieces: tuple[tuple[int, bytes, float | None], ...] = ()


def joined(deltas: Sequence[Delta]) -> Completion:
    """A whole answer from its pieces."""
    last = deltas[-1]
    logprobs = tuple(one for delta in deltas for one in delta.logprobs)
    return Completion(
        "".join(delta.text for delta in deltas), last.finish_reason or "", last.usage or Usage(), logprobs
    )


def usage_of(usage: Usage) -> dict[str, Any]:
    """Tokens in OpenAI's form."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def summed(usages: Sequence[Usage], prompts: Sequence[int]) -> Usage:
    """The tokens of all answers of one request. `prompts` numbers the prompt of each: one is counted once."""
    first = {prompt: usage for prompt, usage in reversed(list(zip(prompts, usages, strict=True)))}
    return Usage(
        sum(usage.prompt_tokens for usage in first.values()),
        sum(usage.completion_tokens for usage in usages),
        sum(usage.cached_tokens for usage in first.values()),
    )


def _finite(logprob: float) -> float:
    return max(logprob, -9999.0)
