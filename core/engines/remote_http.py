"""HTTP to one server, on the standard library: a reply whole or line by line, and a way to hang up from any thread.

What goes wrong becomes one of Hanpaca's errors here. Knows no tokens.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from ..errors import (
    BadInput,
    Busy,
    Closed,
    ContextOverflow,
    EngineFailure,
    EngineUnavailable,
    HanpacaError,
    ModelNotFound,
    TimedOut,
)

CONNECT_SECONDS = 10.0
_STATUS: Mapping[int, type[HanpacaError]] = {404: ModelNotFound, 408: TimedOut, 429: Busy, 502: EngineUnavailable,
                                             503: EngineUnavailable, 504: TimedOut}  # fmt: skip


class Address:
    """Where a server is, and what it wants to see. Its `repr` holds no key."""

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise BadInput(f"{url} is not the address of a server.", "Such as http://host:8000/v1#model.")
        self.url = url
        self._path = parts.path.rstrip("/")
        self._host, self._port, self._secure = parts.hostname, parts.port, parts.scheme == "https"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def __repr__(self) -> str:
        return f"Address({self.url!r})"

    def get(self, route: str) -> Any:
        """The JSON at a route."""
        with Exchange(self, "GET", route, timeout=CONNECT_SECONDS) as exchange:
            return exchange.whole()

    def post(self, route: str, body: Mapping[str, Any]) -> Any:
        """The JSON that answers a body; waits as long as it takes."""
        with Exchange(self, "POST", route, body) as exchange:
            return exchange.whole()

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=CONNECT_SECONDS)


class Exchange:
    """One request and its reply. `abort` may be called from any thread, at any time, more than once."""

    def __init__(
        self, address: Address, method: str, route: str, body: Mapping[str, Any] | None = None, *,
        timeout: float | None = None,
    ) -> None:  # fmt: skip
        self._address = address
        self._asked = method, f"{address._path}{route}"
        self._body = None if body is None else json.dumps(body).encode()
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._connection = address._connection()
        self._socket: socket.socket | None = None
        self._aborted = False

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def abort(self) -> None:
        """Hang up: the server sees that nobody listens, and the thread that reads ends."""
        self._aborted = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def whole(self) -> Any:
        """The reply's JSON."""
        with self._told():
            text = self._reply().read()
        try:
            return json.loads(text)
        except ValueError:
            raise EngineFailure(
                f"{self._address.url} answers, and not in JSON.", "Give the address that ends in /v1."
            ) from None

    def events(self) -> Iterator[Any]:
        """The JSON of each server-sent event, until `[DONE]`. Raises `EngineFailure` where the stream breaks off."""
        with self._told():
            reply = self._reply()
            while True:
                self._tick()
                line = reply.readline()
                if not line:
                    raise http.client.IncompleteRead(b"")
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield json.loads(data)

    def _reply(self) -> http.client.HTTPResponse:
        self._connection.connect()
        self._socket = self._connection.sock
        if self._aborted:
            raise Closed("The request was given up.")
        self._tick()
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._address._headers}
        self._connection.request(*self._asked, self._body, headers)
        reply = self._connection.getresponse()
        if reply.status != 200:
            raise failure(reply.status, reply.read(65536), self._address.url)
        return reply

    def _tick(self) -> None:
        """Wait for the next bytes no longer than the deadline lets."""
        left = None if self._deadline is None else self._deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        if self._socket is not None:
            self._socket.settimeout(left)

    def _told(self) -> _Told:
        return _Told(self._address.url, lambda: self._aborted)


class _Told:
    """Turns what the network raises into Hanpaca's errors."""

    def __init__(self, url: str, aborted: Any) -> None:
        self._url, self._aborted = url, aborted

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._aborted() and isinstance(error, OSError | http.client.HTTPException | ValueError | AttributeError):
            raise Closed("The request was given up.") from None
        if isinstance(error, TimeoutError):
            raise TimedOut(f"{self._url} did not answer in time.", "Try again, or allow more time.") from error
        if isinstance(error, ConnectionResetError | BrokenPipeError | http.client.HTTPException):
            raise EngineFailure(f"{self._url} broke off the answer.", "Look at the server's log.") from error
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise EngineUnavailable(
                f"{self._url} cannot be reached: {reason}.", "Start the server, or correct the address."
            ) from error
        if isinstance(error, ValueError) and not isinstance(error, HanpacaError):
            raise EngineFailure(f"{self._url} sent what is not JSON.", "Look at the server's log.") from error


def failure(status: int, body: bytes, url: str) -> HanpacaError:
    """The error that a status and a body tell of."""
    message, code = _message(body)
    said = f"{url} answers: {message or status}"
    if status in (401, 403):
        return BadInput(f"{url} refuses (status {status}): {message}", "Give its key: api_key=…, or $HANPACA_API_KEY.")
    if code == "context_length_exceeded" or (status == 400 and "context length" in message):
        return ContextOverflow(said, "Shorten the prompt, or ask for fewer tokens.")
    if status in _STATUS:
        hints = {429: "Try again in a moment.", 404: "Its models are at /v1/models."}
        return _STATUS[status](said, hints.get(status, ""))
    if status < 500:
        return BadInput(said, "" if message else f"Status {status}.")
    return EngineFailure(said, "Look at the server's log.")


def told_in_stream(event: Mapping[str, Any], url: str) -> HanpacaError:
    """The error that ends a stream."""
    error = event.get("error")
    message = error.get("message") if isinstance(error, Mapping) else error
    kind = TimedOut if isinstance(error, Mapping) and error.get("code") == "timeout" else EngineFailure
    return kind(f"{url} answers: {message}")


def _message(body: bytes) -> tuple[str, str]:
    """What OpenAI's error bodies, older vLLM's, and FastAPI's own say."""
    try:
        told = json.loads(body)
    except ValueError:
        return body[:200].decode("utf-8", "replace"), ""
    error = told.get("error", told) if isinstance(told, dict) else {}
    if not isinstance(error, dict):
        return str(error)[:500], ""
    message = error.get("message") or error.get("detail") or ""
    return str(message)[:500], str(error.get("code") or "")
