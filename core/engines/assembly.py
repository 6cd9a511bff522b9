"""One request's tokens → the deltas that its caller hears. Shared by the engines that produce tokens here.

Knows neither threads nor models: an engine calls `token` for each token in order, then `finish` or `fail` once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from .base import Delta, Listener, Request, TokenLogprob, Usage


class Assembly:
    """Text, stop strings, limits and usage of one request."""

    def __init__(
        self, request: Request, listener: Listener, ends: frozenset[int], token_bytes: Callable[[int], bytes]
    ) -> None:
        from ..text import TextStream

        self._listener = listener
        self._ends = ends
        self._token_bytes = token_bytes
        self._text = TextStream(request.sampling.stop)
        self._limit = request.sampling.max_tokens or 0
        self._prompt_tokens = len(request.tokens)
        self._logprobs: list[TokenLogprob] = []
        self._done = False
        self.cached_tokens = 0
        self.generated = 0

    def token(self, token: int, logprob: TokenLogprob | None = None) -> bool:
        """Take the next token; True when the request is complete and its last delta has been heard."""
        self.generated += 1
        if token in self._ends:
            return self.finish("stop")
        if logprob is not None:
            self._logprobs.append(logprob)
        text = self._text.feed(self._token_bytes(token))
        if self._text.stopped or self.generated >= self._limit:
            return self.finish("stop" if self._text.stopped else "length", text)
        if text:
            self._emit(Delta(text, logprobs=self._take_logprobs()))
        return self._done

    def finish(self, reason: str, text: str = "") -> bool:
        """Say the last delta, with what was held back. Always True."""
        if not self._done:
            usage = Usage(self._prompt_tokens, self.generated, self.cached_tokens)
            rest = self._text.finish()
            reason = "stop" if self._text.stopped else reason  # the held text may complete a stop string
            self._emit(Delta(text + rest, reason, usage, self._take_logprobs()))
            self._done = True
        return True

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        if not self._done:
            self._done = True
            with suppress(BaseException):
                self._listener(error)

    def silence(self) -> None:
        """The caller has gone: it hears no more."""
        self._done = True

    def _emit(self, delta: Delta) -> None:
        if not self._done:
            try:
                self._listener(delta)
            except BaseException:  # a caller that cannot listen has gone; its neighbours must not notice
                self._done = True

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        taken, self._logprobs = tuple(self._logprobs), []
        return taken
