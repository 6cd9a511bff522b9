"""Who may ask what: Host, Origin, token, size and rate, checked before any route sees a request.

Loopback alone stops neither a page that rebinds its name to 127.0.0.1 nor one that posts a form there: the names in
Host and Origin are checked, and CORS is closed but to the origins that the settings name. Pure ASGI, so that a stream
and its disconnection pass through untouched. Knows no route but the open ones.
"""

from __future__ import annotations

import ipaddress
import math
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import reply, told
from .settings import ServerSettings

OPEN = frozenset({"/health", "/health/ready"})
"""Routes that answer without a token."""
PAGE = ("/", "/static/")
"""So do the page and its files, which hold no data: a browser cannot send a token when it opens an address."""
UPLOADS = frozenset({"/v1/documents"})
HEADERS: dict[str, str] = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Sent with every response; a route may say otherwise."""
_PREFLIGHT: Mapping[str, str] = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, *",
    "Access-Control-Max-Age": "600",
}
_REMEMBERED = 10_000
"""Addresses whose rate is known at the same time."""


class Guard:
    """Refuses what must not reach the routes."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        self._rate = Rate(settings.requests_per_minute)
        self._tokens = [token.encode() for token in settings.tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        cross = self._cross(headers)
        answering = Answering(send, HEADERS | cross)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, answering)
            return
        if cross and scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, answering)
            return
        if (refusal := self._unwelcome(scope, headers)) is not None:
            await refusal(scope, receive, answering)
            return
        try:
            await self._app(scope, limited(receive, self._limit(scope["path"])), answering)
        except Exception as error:  # whatever it is, the client hears of it in the form it knows
            if answering.begun:
                raise
            status, content = told(error)
            await JSONResponse(content, status)(scope, receive, answering)

    def _cross(self, headers: Headers) -> dict[str, str]:
        """What a browser wants to see before it shows an answer to a page of another origin that may ask."""
        origin = headers.get("origin")
        if origin is None or origin not in self._settings.allowed_origins:
            return {}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """For requests that a browser was tricked into."""
        if len(headers.getlist("host")) != 1 or len(headers.getlist("origin")) > 1:
            return _refused(400, "The request names its host or its origin more than once, or no host.")
        if not self._is_known_host(headers["host"]):
            hint = "Use an address, or start with --allow-host NAME."
            return _refused(403, f"The Host header names another machine. {hint}", "host")
        if not self._is_known_origin(scope, headers):
            hint = "Start with --allow-origin URL."
            return _refused(403, f"Pages of other origins may not call this server. {hint}", "origin")
        return None

    def _unwelcome(self, scope: Scope, headers: Headers) -> Response | None:
        """For requests too many, without the token, or too large."""
        if scope["path"] in OPEN or (scope["method"] in ("GET", "HEAD") and _is_page(scope["path"])):
            return None
        wait = math.ceil(self._rate.wait((scope.get("client") or ("", 0))[0]))
        if wait:
            more = {"Retry-After": str(wait)}
            return _refused(429, f"Too many requests. Try again in {wait} seconds.", "rate_limit_exceeded", more)
        if self._tokens and not self._has_token(headers):
            message = "This server needs its token: send it as `Authorization: Bearer TOKEN`."
            return _refused(401, message, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return _refused(400, "Content-Length is not a number.")
        limit = self._limit(scope["path"])
        if int(length) > limit:
            return _refused(413, _too_large(limit), "too_large")
        return None

    def _limit(self, path: str) -> int:
        return self._settings.max_upload if path.rstrip("/") in UPLOADS else self._settings.max_body

    def _is_known_host(self, host: str) -> bool:
        name = _name_of(host)
        return name is not None and (
            _is_address(name, loopback_only=self._settings.on_loopback)
            or name == "localhost"
            or name in map(str.lower, self._settings.allowed_hosts)
            or (not self._settings.on_loopback and name in (self._settings.host.lower(), socket.gethostname().lower()))
        )

    def _is_known_origin(self, scope: Scope, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is not None:
            # Of either scheme: in front of this server a proxy may speak TLS.
            own = [f"{scheme}://{headers.get('host', '')}".lower() for scheme in ("http", "https")]
            return origin.lower() in own or origin in self._settings.allowed_origins
        # A browser that sends no Origin (an image, a link) still says that another site made the request.
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return True
        return _is_link(scope, headers)

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        sent = given.strip().encode("utf-8", "surrogateescape")
        fits = [secrets.compare_digest(sent, token) for token in self._tokens]
        return scheme.lower() == "bearer" and any(fits)


class Rate:
    """A bucket of tokens for each address: a minute's worth at once, then as they come."""

    def __init__(self, per_minute: int) -> None:
        self._most = float(per_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until the next request is welcome; 0: now, and it is counted."""
        if not self._most:
            return 0.0
        now = time.monotonic()
        left, then = self._buckets.pop(address, (self._most, now))
        left = min(self._most, left + (now - then) * self._most / 60)
        allowed = left >= 1
        self._buckets[address] = (left - allowed, now)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else max(1.0, (1 - left) * 60 / self._most)


def limited(receive: Receive, limit: int) -> Receive:
    """`receive` that refuses a body over `limit` bytes, also one that does not say its length."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, _too_large(limit), {"Connection": "close"})
        return message

    return counted


class Answering:
    """`send` that adds headers where a route has not set them, and knows whether the answer has begun."""

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self.begun = False
        self._send = send
        self._headers = headers

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        await self._send(message)


def _is_page(path: str) -> bool:
    return path == PAGE[0] or path.startswith(PAGE[1])


def _is_link(scope: Scope, headers: Headers) -> bool:
    """Whether somebody followed a link to the page, which may stand on any other."""
    is_page = scope["method"] in ("GET", "HEAD") and scope["path"] == PAGE[0]
    return is_page and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _refused(status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    # What is left of the body stays unread, so the connection cannot be used again.
    return reply(status, message, code, headers={"Connection": "close", **(headers or {})})


def _too_large(limit: int) -> str:
    return f"The body is larger than {limit:,} bytes. Send less, or raise the server's limit."


def _name_of(host: str) -> str | None:
    """The name in a Host header, lower case, without its port; None for one that is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname if parts.hostname and parts.netloc == host and "@" not in host else None


def _is_address(name: str, *, loopback_only: bool) -> bool:
    """Whether a name is an IP address: nobody can make one point elsewhere, as a name can."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not loopback_only
