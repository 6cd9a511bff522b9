"""Routes for documents: libraries, uploads with their progress, search. What they do is `documents_uploads.py`'s."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.responses import Response

from ...core.errors import BadInput, Closed
from .documents_files import shown_name
from .documents_status import Status
from .documents_types import LibraryRequest, SearchRequest
from .documents_uploads import Shelf
from .errors import NotHere
from .openai_api import service_of
from .openai_documents import source
from .streaming import EventStream, event, while_connected

router = APIRouter(prefix="/v1", tags=["documents"])
MOST_FILES = 100
LARGEST = 2**40
"""Beyond every offset into a text."""
LOOK_SECONDS = 0.25
"""How often progress is looked at."""
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "library": {"type": "string"},
                    },
                }
            }
        },
    }
}


@router.get("/libraries")
async def libraries(request: Request) -> dict[str, Any]:
    """Every library, the server's own first, with its figures; and the most bytes of an upload."""
    found = service_of(request).libraries

    def look() -> list[dict[str, Any]]:
        told = []
        for name in found.names():
            with suppress(NotHere):  # it was deleted meanwhile
                told.append(_library(name, found.shelf(name) if found.exists(name) else None))
        return told

    most = service_of(request).settings.max_upload
    return {"object": "list", "data": await asyncio.to_thread(look), "max_upload": most}


@router.post("/libraries", status_code=201)
async def make_library(request: Request, asked: LibraryRequest) -> dict[str, Any]:
    """Make a library, or open the one of this name."""
    found = service_of(request).libraries
    return await asyncio.to_thread(lambda: _library(asked.name, found.shelf(asked.name, create=True)))


@router.delete("/libraries/{name:path}")
async def delete_library(request: Request, name: str) -> dict[str, Any]:
    """Delete a library and its uploads for good; files that it read where they lie stay. 409 while it is changed."""
    await asyncio.to_thread(service_of(request).libraries.remove, name)
    return {"id": name, "object": "library", "deleted": True}


@router.post("/documents", status_code=202, openapi_extra=_FORM)
async def upload(request: Request) -> dict[str, Any]:
    """Upload one or more files, as `multipart/form-data` in fields called `file`; they are read one after another.

    All are taken, or, where one is of a type that cannot be read, none.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise BadInput("An upload is multipart/form-data.", "With curl: -F file=@report.pdf.")
    async with request.form(max_files=MOST_FILES, max_fields=10) as form:
        files = [value for name, value in form.multi_items() if name == "file" and isinstance(value, UploadFile)]
        unknown = set(form) - {"file", "library"}
        named = form.get("library")
        if unknown or not files or isinstance(named, UploadFile):
            raise BadInput("The form has no file, or fields that are not known.", "Its fields are: file, library.")
        for file in files:
            shown_name(file.filename)
        shelf = await _shelf(request, named or None, create=True)
        added = [await asyncio.to_thread(shelf.add, file.file, file.filename) for file in files]
    return {"object": "list", "data": [status.plain() for status in added]}


@router.get("/documents")
async def documents(request: Request, library: str | None = None) -> dict[str, Any]:
    """Every document of a library."""
    service = service_of(request)
    if library in (None, service.settings.library) and not service.libraries.exists(service.settings.library):
        return {"object": "list", "data": []}
    shelf = await _shelf(request, library)
    return {"object": "list", "data": [status.plain() for status in await asyncio.to_thread(shelf.list)]}


@router.get("/documents/events", response_model=None)
async def all_progress(request: Request, library: str | None = None) -> Response:
    """Where each document that is being read stands, each time one changes, until none is left.

    One connection tells of all: browsers open few to one server. A document that was deleted meanwhile is
    `{"id": …, "deleted": true}`.
    """
    shelf = await _shelf(request, library)
    return EventStream(_all_changes(request, shelf))


@router.get("/documents/{id}")
async def document(request: Request, id: str, library: str | None = None) -> dict[str, Any]:
    """Where one document stands."""
    shelf = await _shelf(request, library)
    return (await asyncio.to_thread(shelf.status, id)).plain()


@router.get("/documents/{id}/text")
async def text(
    request: Request,
    id: str,
    start: Annotated[int, Query(ge=0, le=LARGEST)],
    end: Annotated[int, Query(ge=0, le=LARGEST)],
    library: str | None = None,
) -> dict[str, Any]:
    """The text around a passage, given by the offsets that sources and search tell."""
    shelf = await _shelf(request, library)
    found = await asyncio.to_thread(shelf.text, id, start, end)
    return {"id": id, "object": "document.text", "text": found[0], "start": found[1], "more": found[2]}


@router.get("/documents/{id}/page")
async def page(
    request: Request,
    id: str,
    start: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    end: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    page: Annotated[int | None, Query(ge=1, le=LARGEST)] = None,
    library: str | None = None,
) -> dict[str, Any]:
    """A PDF's page as a picture (PNG in base64), and where the text between these offsets stands on it.

    The page is the one that holds `start` unless another is named; without offsets nothing is marked. Rectangles are
    left, top, right and bottom as shares of the picture; `marked` is the page's own text that they cover.
    """
    shelf = await _shelf(request, library)
    drawn = dataclasses.asdict(await asyncio.to_thread(shelf.page, id, start, end, page))
    drawn["png"] = base64.b64encode(drawn["png"]).decode()
    return {"id": id, "object": "document.page", **drawn}


@router.get("/documents/{id}/events", response_model=None)
async def progress(request: Request, id: str, library: str | None = None) -> Response:
    """The same as events, each time it changes, until the document is ready or has failed."""
    shelf = await _shelf(request, library)
    first = await asyncio.to_thread(shelf.status, id)
    return EventStream(_changes(request, shelf, first))


@router.delete("/documents/{id}")
async def delete(request: Request, id: str, library: str | None = None) -> dict[str, Any]:
    """Remove a document from a library; an uploaded file is deleted, any other stays where it lies."""
    shelf = await _shelf(request, library)
    await asyncio.to_thread(shelf.delete, id)
    return {"id": id, "object": "document", "deleted": True}


@router.post("/search", response_model=None)
async def search(request: Request, asked: SearchRequest) -> Response:
    """The passages that fit a question, best first; no language model is asked."""
    shelf = await _shelf(request, asked.library)
    options: dict[str, Any] = {"mode": asked.mode, "filters": asked.filters, "neighbours": asked.neighbours}
    found = await while_connected(request, asyncio.to_thread(shelf.find, asked.query, asked.k, **options))
    hits = [source(dataclasses.asdict(hit) | {"explain": _plain(hit.explain)}) for hit in found.hits]
    return JSONResponse({"object": "list", "data": hits, "answerable": bool(found.answerable)})


async def _shelf(request: Request, name: str | None, *, create: bool = False) -> Shelf:
    found = service_of(request).libraries
    own = name in (None, service_of(request).settings.library)  # it comes into being with its first document
    return await asyncio.to_thread(lambda: found.shelf(name, create=create and own))


async def _changes(request: Request, shelf: Shelf, status: Status) -> AsyncGenerator[bytes, None]:
    service = service_of(request)
    yield event(status.plain())
    while not status.over and not service.draining:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            now = await asyncio.to_thread(shelf.status, status.id)
        except (BadInput, Closed) as error:  # it was deleted, or its library was
            yield event({"error": {"message": str(error)}}, "error")
            return
        if now != status:
            status = now
            yield event(status.plain())


async def _all_changes(request: Request, shelf: Shelf) -> AsyncGenerator[bytes, None]:
    service, told = service_of(request), dict[str, Status]()
    while not service.draining:
        now = shelf.working()
        for id in told.keys() - now.keys():
            yield event(await asyncio.to_thread(_last_word, shelf, id))
        for id, status in now.items():
            if told.get(id) != status:
                yield event(status.plain())
        told = now
        if not now:
            return
        await asyncio.sleep(LOOK_SECONDS)


def _last_word(shelf: Shelf, id: str) -> dict[str, Any]:
    try:
        return shelf.status(id).plain()
    except (BadInput, Closed):
        return {"id": id, "object": "document", "deleted": True}


def _library(name: str, shelf: Shelf | None) -> dict[str, Any]:
    stats = shelf.figures() if shelf else None
    told = {field: getattr(stats, field) if stats else 0 for field in ("files", "passages", "embedded")}
    return {"id": name, "object": "library", **told, "languages": stats.languages if stats else {}}


def _plain(value: Any) -> Any:
    """Numbers as JSON has them: searching computes with numpy's."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return value.item() if hasattr(value, "item") else value
