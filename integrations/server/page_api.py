"""The page at `/` and its files. They hold nobody's data: what they show they ask the API for, with the token."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from .errors import NotHere

FOLDER = Path(__file__).with_name("static")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, and no script or style but the files here."""
FILES = {path.name: path for path in FOLDER.iterdir() if path.suffix in TYPES}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    """The page."""
    return _file("index.html")


@router.get("/static/{name}")
async def static(name: str) -> FileResponse:
    """A file of it."""
    if name not in FILES:
        raise NotHere("The page has no such file.", "It is at /.")
    return _file(name)


def _file(name: str) -> FileResponse:
    path = FILES[name]
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)
