"""HTML: what a reader of the page reads. Navigation, scripts and styles are left out, headings and tables kept."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ...core.encodings import decode
from ...core.errors import UnreadableDocument
from ..readers import Document
from .build import TextBuilder, clean, squeeze

_NOT_READ = (
    "head script style noscript template nav iframe object svg math button select input textarea canvas audio video"
)
_DROPPED = frozenset(_NOT_READ.split())
_NAVIGATION = re.compile(
    r"(?:^|\s)(?:nav(?:header|footer|bar|igation)?|breadcrumbs?|sidebar|toc|contents|list-of-[a-z]+)(?:\s|$)", re.I
)
_BREAKING = (
    "address article aside blockquote body center dd details div dl dt fieldset figcaption figure footer form "
    "header hr main ol p section summary ul table caption thead tbody tfoot tr"
)
_BLOCKS = frozenset(_BREAKING.split())
_HEADING = re.compile(r"h[1-6]\Z")
_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]+)", re.I)
_XML = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9_:.-]+)", re.I)
_SPACES = re.compile(r"[ \t\r\n\f\xa0]+")


def read(data: bytes, name: str, encoding: str | None) -> Document:
    """An HTML file."""
    text, codec, warnings = _decode(data, encoding)
    builder = TextBuilder()
    title = append(builder, text)
    built = builder.document("html", title)
    return replace(built, encoding=codec, warnings=warnings + built.warnings)


def append(builder: TextBuilder, html: str) -> str:
    """Write a page's text into `builder`; gives its title."""
    from lxml import etree
    from lxml.html import HTMLParser, document_fromstring

    html = re.sub(r"\A\s*<\?xml[^>]*\?>", "", html)  # lxml refuses text that names an encoding
    # huge_tree: without it, what nests deeper than 256 elements is silently left out
    parser = HTMLParser(remove_comments=True, remove_pis=True, huge_tree=True)
    try:
        root = document_fromstring(clean(html), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError) as error:
        raise UnreadableDocument(
            f"The page cannot be parsed: {error}.", "Open it in a browser and save it again."
        ) from error
    if any("depth" in entry.message.lower() for entry in parser.error_log):
        builder.warnings.append("the page nests deeper than any parser follows; what lies deeper is not read")
    title = root.findtext(".//title") or ""
    _Walk(builder).run(root)
    return squeeze(title)


def _decode(data: bytes, encoding: str | None) -> tuple[str, str, tuple[str, ...]]:
    """By override, byte order mark or valid UTF-8; then what the page says of itself; then the rule for plain text."""
    if encoding is None:
        try:
            return data.decode("utf-8-sig"), "utf-8", ()
        except UnicodeDecodeError:
            encoding = _declared(data)
    decoded = decode(data, encoding)
    return decoded.text, decoded.encoding, decoded.warnings


def _declared(data: bytes) -> str | None:
    """The encoding the page names, where it fits every byte. gb2312 on the web means GB18030."""
    found = _XML.match(data[:1024]) or _META.search(data[:4096])
    if found is None:
        return None
    named = found.group(1).decode("ascii").lower()
    named = "gb18030" if named in ("gb2312", "gbk", "gb_2312-80", "x-gbk") else named
    try:
        data.decode(named)
    except (LookupError, UnicodeDecodeError, ValueError):
        return None
    return named


class _Walk:
    """One pass over the tree, without recursion: pages may nest as deep as the parser allows."""

    def __init__(self, builder: TextBuilder) -> None:
        self._builder = builder
        self._line: list[str] = []
        self._preformatted = 0
        self._item = False
        self._heading: list[str] | None = None
        self._tables: list[list[list[str]]] = []
        self._cells: list[list[str]] = []  # the open cell of each open table, outermost first

    def run(self, root: Any) -> None:
        from lxml import etree

        walker = etree.iterwalk(root, events=("start", "end"))
        for event, element in walker:
            tag = element.tag if isinstance(element.tag, str) else ""
            if event == "start":
                if self._dropped(element, tag):
                    walker.skip_subtree()
                    continue
                self._start(tag)
                self._text(element.text)
            else:
                if not self._dropped(element, tag):
                    self._end(tag)
                self._text(element.tail)
        self._flush()

    def _dropped(self, element: Any, tag: str) -> bool:
        if not tag or tag in _DROPPED or element.get("hidden") is not None:
            return True
        return element.get("role") == "navigation" or (
            tag in ("div", "ul", "table", "p") and _NAVIGATION.search(element.get("class") or "") is not None
        )

    def _start(self, tag: str) -> None:
        if _HEADING.match(tag) and not self._cells:
            self._flush()
            self._heading = []
        elif tag == "pre":
            self._flush()
            self._preformatted += 1
        elif tag == "table":
            self._flush()
            self._tables.append([])
        elif tag == "tr" and self._tables:
            self._tables[-1].append([])
        elif tag in ("td", "th") and len(self._cells) < len(self._tables):
            self._cells.append([])
        elif tag == "br":
            self._text("\n" if self._preformatted else "\v")
        elif tag == "li":
            self._flush(item=True)
        elif tag in _BLOCKS:
            self._flush()

    def _end(self, tag: str) -> None:
        if _HEADING.match(tag) and self._heading is not None:
            words, self._heading = "".join(self._heading), None
            self._builder.heading(words, int(tag[1]))
        elif tag == "pre" and self._preformatted:
            self._flush()
            self._preformatted -= 1
        elif tag in ("td", "th") and len(self._cells) == len(self._tables) > 0:
            self._end_cell()
        elif tag == "table" and self._tables:
            self._end_table()
        elif tag == "li":
            self._flush()
            self._item = False
        elif tag in _BLOCKS:
            self._flush()

    def _end_cell(self) -> None:
        rows = self._tables[-1]
        if not rows:
            rows.append([])
        rows[-1].append("".join(self._cells.pop()))

    def _end_table(self) -> None:
        if len(self._cells) == len(self._tables):
            self._end_cell()
        rows = self._tables.pop()
        if self._cells:  # a table within a cell: its words belong to the cell
            self._cells[-1].extend(" ".join(row) + " " for row in rows)
        elif sum(len(row) > 1 for row in rows) * 2 >= len(rows):
            self._builder.table(rows)
        else:  # one column: layout, not data
            for row in rows:
                self._builder.paragraph(squeeze(" ".join(row)))

    def _text(self, text: str | None) -> None:
        if not text:
            return
        if self._heading is not None:
            self._heading.append(text)
        elif self._cells:
            self._cells[-1].append(text)
        else:
            self._line.append(text)

    def _flush(self, item: bool = False) -> None:
        """End the block at hand; `item`: the next one is a list item, which takes a line and no empty one."""
        if self._heading is not None or self._cells:
            self._text(" ")
            return
        text, self._line = "".join(self._line), []
        if self._preformatted:
            self._builder.paragraph(text.strip("\n").rstrip())
        else:
            lines = (_SPACES.sub(" ", line).strip(" ") for line in text.split("\v"))
            text = "\n".join(line for line in lines if line)
            if self._item and text:
                self._builder.break_()
                self._builder.add("- " + text)
                self._item = False
            else:
                self._builder.paragraph(text)
        self._item = item or (self._item and not text.strip())
