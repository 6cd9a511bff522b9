"""uvicorn with this server: a socket of our own, signals, and an end that lets answers finish. Prints nothing."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from ...core.errors import BadInput
from .service import Service
from .settings import ServerSettings

HEADER_SECONDS = 30
"""In which the headers of a request must come."""
LAST_WORDS = 5
"""Seconds for telling the clients of answers that were ended."""


def listen(settings: ServerSettings) -> socket.socket:
    """A socket that listens. Raises `BadInput` where the address cannot be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host.strip("[]"), settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise _cannot(settings, error) from error
    own = socket.socket(family, kind, proto)
    try:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(address)
        own.listen(2048)
    except OSError as error:
        own.close()
        raise _cannot(settings, error) from error
    return own


def _cannot(settings: ServerSettings, error: OSError) -> BadInput:
    where = f"{settings.host}:{settings.port}"
    return BadInput(
        f"Nothing can listen on {where}: {error.strerror or error}.", "Choose another --port, or 0 for a free one."
    )


def url_of(own: socket.socket) -> str:
    """Where a browser on this machine finds the server."""
    host, port = own.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"


class Connection(H11Protocol):
    """h11, which bounds the size of a request's headers, and a bound on how long they may take."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Count the time while a request has begun, or none ever came."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Server(uvicorn.Server):
    """uvicorn that tells the service at once when it is to stop, and the caller when it has started."""

    def __init__(self, app: FastAPI, on_start: Callable[[], None] = lambda: None) -> None:
        self._service: Service = app.state.service
        self._on_start = on_start
        self._grace = self._service.settings.grace
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, proxy_headers=False, http=Connection,
            ws="none", timeout_graceful_shutdown=math.ceil(self._grace) + LAST_WORDS, timeout_keep_alive=30,
        )  # fmt: skip
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, then tell."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does; answers that last longer than the grace end with an error that says why."""
        ending = asyncio.create_task(self._end())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end(self) -> None:
        await asyncio.sleep(self._grace)
        await self._service.cut()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A first signal lets answers under way finish and refuses new ones; a second one ends at once."""
        self._service.draining = True
        self.force_exit = self.should_exit
        self.should_exit = True  # and the signal is not raised again: an end that was asked for is no failure


def run(app: FastAPI, own: socket.socket, on_start: Callable[[], None] = lambda: None) -> None:
    """Serve on a listening socket until a signal comes; returns after an orderly end."""
    Server(app, on_start).run(sockets=[own])
