"""Errors as OpenAI's clients expect them: a status, and a body that says what is wrong and what to do.

Knows no route. What a user sent never stands in a body or a log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ...core.errors import (
    BadInput,
    Busy,
    Closed,
    ContextOverflow,
    DownloadFailed,
    EngineFailure,
    EngineUnavailable,
    HanpacaError,
    LibraryBusy,
    LibraryMismatch,
    ModelNotFound,
    TimedOut,
    UnsupportedFeature,
)

log = logging.getLogger("hanpaca.server")

STATUS: tuple[tuple[type[HanpacaError], int, str | None], ...] = (
    (ModelNotFound, 404, "model_not_found"),
    (ContextOverflow, 400, "context_length_exceeded"),
    (UnsupportedFeature, 400, "unsupported_feature"),
    (LibraryMismatch, 409, "library_mismatch"),
    (BadInput, 400, None),
    (Busy, 429, "queue_full"),
    (LibraryBusy, 409, "library_busy"),
    (TimedOut, 408, "timeout"),
    (EngineUnavailable, 503, "engine_unavailable"),
    (DownloadFailed, 502, "download_failed"),
    (EngineFailure, 500, "engine_failure"),
    (HanpacaError, 500, None),
)
"""The first class that fits decides: status, and `code` of the body."""
RETRY_SECONDS = 1
"""What `Retry-After` says when the queue is full or the server is stopping."""
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Gone(Exception):
    """The client went away; there is nobody to answer."""


class NotHere(BadInput):
    """What a path or a field names is not there."""

    code = "not_found"


class NoSuchModel(NotHere):
    """The server serves no model of this name."""

    code = "model_not_found"


def body(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """An OpenAI error body."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def reply(
    status: int,
    message: str,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error as a response."""
    more = dict(headers or {})
    if status in (429, 503):
        more.setdefault("Retry-After", str(RETRY_SECONDS))
    return JSONResponse(body(status, message, code, param), status, more)


def told(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body of an error, for a response and for the end of a stream that broke."""
    if isinstance(error, NotHere):
        return 404, body(404, str(error), error.code)
    if isinstance(error, Closed):
        return 503, body(503, "The server is stopping. Try again when it runs.", "closing")
    if isinstance(error, HanpacaError):
        status, code = next((status, code) for kind, status, code in STATUS if isinstance(error, kind))
        return status, body(status, str(error), code)
    if isinstance(error, UnicodeError):
        return 400, body(400, "A text holds what is no character (a lone surrogate). Send valid Unicode.")
    log.exception("unexpected error", exc_info=error)
    return 500, body(500, "The server failed on this request; its log says more.")


def install(app: FastAPI) -> None:
    """Every error of `app` becomes an OpenAI error body; what nobody foresaw is `security.Guard`'s."""
    app.add_exception_handler(HanpacaError, _known)
    app.add_exception_handler(UnicodeError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Gone, _gone)
    app.add_exception_handler(ClientDisconnect, _gone)  # in the middle of what it sent


async def _known(request: Request, error: Exception) -> JSONResponse:
    status, content = told(error)
    headers = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else None
    return JSONResponse(content, status, headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # Of a field that may have several forms each is tried: the one that fitted deepest is what was meant.
    first = max(error.errors(), key=lambda one: len(one["loc"]))
    place = ".".join(part for part in first["loc"][1:] if isinstance(part, str) and part.isidentifier()) or None
    if first["loc"] == ("body",):
        is_what = "missing" if first["type"] == "missing" else "not a JSON object"
        message = f"The body is {is_what}. Send one JSON object, with Content-Type: application/json."
        return reply(400, message, "invalid_json")
    if first["type"] == "json_invalid":
        return reply(400, "The body is not valid JSON. Send one JSON object.", "invalid_json")
    if first["type"] == "extra_forbidden":
        return reply(400, f"{place!r} is not a field of this request. /openapi.json lists the valid ones.", None, place)
    reason = str(first["msg"]).removeprefix("Value error, ")
    return reply(400, f"{place}: {reason}" if place else reason, None, place)


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody hears it; the log and the figures say 499, as proxies do."""
    request.app.state.service.metrics.cancelled.inc()
    return Response(status_code=499)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ClientDisconnect):
        return await _gone(request, error)
    if error.detail == "There was an error parsing the body":  # FastAPI's, of what json.loads cannot bear
        return reply(400, "The body is not JSON in UTF-8, or nests too deep. Send one JSON object.", "invalid_json")
    messages = {404: "There is no such route. /openapi.json lists them.", 405: "This route has no such method."}
    message = messages.get(error.status_code, str(error.detail)) if error.detail in _DEFAULTS else str(error.detail)
    return reply(error.status_code, message, _CODES.get(error.status_code), headers=error.headers)


_CODES = {413: "too_large"}
_DEFAULTS = ("Not Found", "Method Not Allowed")
