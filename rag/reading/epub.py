"""EPUB books: the chapters in reading order, each read as the XHTML page that it is."""

from __future__ import annotations

import posixpath
import zipfile
from typing import Any
from urllib.parse import unquote

from ...core.encodings import decode
from ...core.errors import UnreadableDocument
from ..readers import Document
from . import html
from .build import TextBuilder
from .zips import open_zip, read_member

_WHAT = "EPUB book"
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def read(data: bytes, name: str, encoding: str | None) -> Document:
    """A .epub file with a mark per chapter file; its headings are headings."""
    archive = open_zip(data, _WHAT)
    container = _xml(read_member(archive, "META-INF/container.xml", _WHAT))
    root = container.find(".//{*}rootfile")
    path = root.get("full-path", "") if root is not None else ""
    package = _xml(read_member(archive, path, _WHAT))
    if read_member(archive, "META-INF/rights.xml", _WHAT):
        raise UnreadableDocument("The book is under copy protection (DRM).", "Get a copy without it.")
    builder = TextBuilder()
    for chapter in _spine(package, posixpath.dirname(path)):
        _chapter(builder, archive, chapter)
    return builder.document("epub", package.findtext(".//{http://purl.org/dc/elements/1.1/}title") or "")


def _chapter(builder: TextBuilder, archive: zipfile.ZipFile, path: str) -> None:
    data = read_member(archive, path, _WHAT)
    if not data:
        builder.warnings.append(f"{path}: named in the book's table, but missing or empty")
        return
    builder.break_(2)
    builder.mark("chapter", posixpath.basename(path))
    html.append(builder, decode(data).text)


def _spine(package: Any, folder: str) -> list[str]:
    """Paths of the chapters within the archive, in reading order, the page of contents left out."""
    items = {item.get("id"): item for item in package.iterfind(".//{*}manifest/{*}item")}
    chapters = []
    for reference in package.iterfind(".//{*}spine/{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None or item.get("media-type") not in _PAGES or "nav" in (item.get("properties") or "").split():
            continue
        chapters.append(posixpath.normpath(posixpath.join(folder, unquote(item.get("href", "")))))
    return chapters


def _xml(data: bytes) -> Any:
    from lxml import etree

    try:
        parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True)
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError:
        root = None
    if root is None:
        raise UnreadableDocument("The book's table of files is missing or broken.", "Get a whole copy of the book.")
    return root
