"""Figures for Prometheus, and one line of log for each request. Neither holds what was asked or answered."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...core.engines.base import Usage

log = logging.getLogger("hanpaca.server")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """One server's figures, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        to = self.registry
        self.requests = Counter("hanpaca_requests", "Requests by route and status.", ["route", "status"], registry=to)
        self.seconds = Histogram("hanpaca_request_seconds", "Seconds of a whole request.", ["route"], registry=to)
        self.open = Gauge("hanpaca_requests_open", "Requests under way.", registry=to)
        self.first_token = Histogram(
            "hanpaca_first_token_seconds", "Seconds to the first token.", buckets=_FIRST, registry=to
        )
        self.tokens = Counter("hanpaca_tokens", "Tokens: prompt, cached, completion.", ["kind"], registry=to)
        self.cancelled = Counter("hanpaca_cancelled", "Requests whose client went away.", registry=to)
        self.documents = Counter("hanpaca_documents", "Documents: ready, failed, deleted.", ["what"], registry=to)

    def count(self, usage: Usage) -> None:
        """Add a request's tokens."""
        self.tokens.labels("prompt").inc(usage.prompt_tokens)
        self.tokens.labels("cached").inc(usage.cached_tokens)
        self.tokens.labels("completion").inc(usage.completion_tokens)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)


class Watch:
    """Counts and logs every request: method, route, status, milliseconds; never a query, a body or a header."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499  # what proxies write where the client went before an answer

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.open.inc()
        try:
            await self._app(scope, receive, noting)
        finally:
            self._metrics.open.dec()
            self._note(scope, status, time.perf_counter() - start)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = route_of(scope)
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if log.isEnabledFor(logging.INFO):
            client = (scope.get("client") or ("", 0))[0]
            line: dict[str, Any] = {"method": scope["method"], "route": route, "status": status}
            log.info(json.dumps(line | {"ms": round(seconds * 1000, 1), "client": client}))


def route_of(scope: Scope) -> str:
    """The route's own path with its placeholders, which has few values, unlike the path that was asked for."""
    return str(getattr(scope.get("route"), "path", "other"))
