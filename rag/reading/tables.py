"""Spreadsheets: one line per row, each cell with its column's name, so that a row is understood by itself."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Iterable, Iterator
from typing import Any

from ...core.errors import UnreadableDocument
from ..readers import Document, Mark
from .build import TextBuilder, clean, squeeze
from .text import text_of
from .zips import open_zip

MAX_CELLS = 5_000_000
_WHAT = "workbook"


def read_csv(data: bytes, name: str, encoding: str | None) -> Document:
    """A .csv or .tsv file; what separates its cells is found out from its first lines."""
    text, codec, warnings = text_of(data, encoding)
    delimiter = "\t" if name.lower().endswith(".tsv") else _delimiter(text)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        warnings += (f"not a valid table ({error}); read as plain text",)
        return Document(text, kind="csv", encoding=codec, warnings=warnings)
    lines = list(_lines(rows))
    return Document("\n".join(lines), (Mark(0, "table", ""),), "", "csv", codec, warnings)


def read_xlsx(data: bytes, name: str, encoding: str | None) -> Document:
    """A .xlsx file with a mark per sheet; formulas show the value that was last computed."""
    import warnings

    import openpyxl

    open_zip(data, _WHAT)
    builder = TextBuilder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and extensions that openpyxl does not know
        try:
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            for sheet in book.worksheets:
                _sheet(builder, sheet)
            title = book.properties.title or ""
            book.close()
        except UnreadableDocument:
            raise
        except Exception as error:  # openpyxl lets KeyError, ValueError, zipfile's and expat's errors through
            raise UnreadableDocument(f"This {_WHAT} is broken.", "Open it in Excel and save it again.") from error
    return builder.document("xlsx", title)


def _sheet(builder: TextBuilder, sheet: Any) -> None:
    sheet.reset_dimensions()  # files written by programs often state wrong ones
    cells = 0
    rows: list[list[str]] = []
    for row in sheet.iter_rows(values_only=True):
        cells += len(row)
        if cells > MAX_CELLS:
            raise UnreadableDocument(f"A sheet has more than {MAX_CELLS:,} cells.", "Split it into smaller files.")
        rows.append([_shown(value) for value in row])
    lines = [line for line in _lines(rows) if line]
    if lines:
        builder.break_(2)
        builder.mark("sheet", sheet.title)
        builder.mark("table", sheet.title)
        builder.add("\n".join(lines))


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value)


def _lines(rows: Iterable[list[str]]) -> Iterator[str]:
    """A line per row: the header as it is, then `name: value | name: value` with empty cells left out."""
    header: list[str] = []
    for number, row in enumerate(rows):
        cells = [squeeze(clean(cell)) for cell in row]
        if number == 0 and _is_header(cells):
            header = cells
            yield " | ".join(cells)
        elif header:
            names = header + [""] * (len(cells) - len(header))
            pairs = zip(names, cells, strict=False)
            yield " | ".join(f"{name}: {cell}" if name else cell for name, cell in pairs if cell)
        else:
            yield " | ".join(cell for cell in cells if cell)


def _is_header(cells: list[str]) -> bool:
    """Short different words in at least two columns, no number among them."""
    named = [cell for cell in cells if cell]
    short = all(len(cell) <= 40 and not cell.replace(".", "").isdigit() for cell in named)
    return len(named) >= 2 and len(set(named)) == len(named) and short


def _delimiter(text: str) -> str:
    """The separator that gives the first lines most cells, as equally many as may be."""
    sample = [line for line in text[:65_536].split("\n")[:20] if line.strip()]

    def fit(delimiter: str) -> tuple[int, int]:
        counts = [len(row) for row in csv.reader(sample, delimiter=delimiter)]
        return (max(map(counts.count, set(counts))) if max(counts) > 1 else 0, max(counts))

    try:
        return max(",;\t|", key=fit) if sample else ","
    except csv.Error:
        return ","
