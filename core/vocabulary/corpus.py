"""Text files in any encoding, and JSON lines with a text in each, as a stream. Knows no tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..encodings import decode
from ..errors import BadInput, UnreadableDocument

SUFFIXES = (".txt", ".jsonl")
TEXT_FIELDS = ("text", "content")
"""Fields of a JSON line that may hold its text, the first that is there."""
_SAMPLE = 1 << 20
_WHOLE = 256 << 20
"""Larger text files are read line by line, in the encoding of their beginning."""
_CODECS = {"utf-8 with BOM": "utf-8-sig", "utf-16 with BOM": "utf-16", "utf-32 with BOM": "utf-32"}


@dataclass(frozen=True)
class Document:
    """One text and where it stands."""

    text: str
    file: Path
    line: int


def text_files(paths: Sequence[Path]) -> list[Path]:
    """The .txt and .jsonl files that `paths` name, folders searched to the bottom, in a fixed order.

    Raises `BadInput` for a path that does not exist or where there is nothing to read.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise BadInput(f"{path} does not exist.", "Give text files, or folders that hold them.")
        inside = _inside(path) if path.is_dir() else [path]
        found += [file for file in inside if file not in found]
    if not found:
        named = ", ".join(map(str, paths))
        raise BadInput(f"No {' or '.join(SUFFIXES)} file in {named}.", "Give text files, or folders that hold them.")
    return found


def _inside(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


def lines(files: Sequence[Path]) -> Iterator[str]:
    """Every line that is not blank, without its end. Raises `BadInput` as `documents` does."""
    for document in documents(files):
        for line in document.text.splitlines():
            if stripped := line.strip():
                yield stripped


def documents(files: Sequence[Path]) -> Iterator[Document]:
    """Each JSON line's text, and each text file: whole, or a very large one in parts of whole lines.

    The encoding is found by the rule of `core.encodings`, and lines of texts end in a line feed alone. Raises
    `BadInput` with file and line for what is no text.
    """
    for file in files:
        if file.suffix.lower() == ".jsonl":
            yield from _json_lines(file, _codec(file))
        elif file.stat().st_size > _WHOLE:
            yield from _parts(file, _codec(file))
        else:
            text = _decoded(file, file.read_bytes())[0]
            yield Document(text.replace("\r\n", "\n").replace("\r", "\n"), file, 1)


def _codec(file: Path) -> str:
    """The encoding of a file's beginning."""
    with file.open("rb") as stream:
        encoding = _decoded(file, stream.read(_SAMPLE))[1]
    return _CODECS.get(encoding, encoding)


def _decoded(file: Path, data: bytes) -> tuple[str, str]:
    try:
        found = decode(data)
    except UnreadableDocument as error:
        raise BadInput(f"{file} is no text file: {error.problem}", error.hint) from error
    return found.text, found.encoding


def _lines_of(file: Path, encoding: str) -> Iterator[str]:
    with file.open(encoding=encoding) as stream:
        try:
            yield from stream
        except UnicodeDecodeError as error:
            raise BadInput(f"{file} is not {encoding} text throughout.", "Save it as UTF-8.") from error


def _parts(file: Path, encoding: str, size: int = 64 << 20) -> Iterator[Document]:
    held: list[str] = []
    length = first = 0
    for number, line in enumerate(_lines_of(file, encoding)):
        held.append(line)
        length += len(line)
        if length >= size:
            yield Document("".join(held), file, first + 1)
            held, length, first = [], 0, number + 1
    if held:
        yield Document("".join(held), file, first + 1)


def _json_lines(file: Path, encoding: str) -> Iterator[Document]:
    for number, line in enumerate(_lines_of(file, encoding), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{file}, line {number}: no JSON ({error}).", "One object in each line.") from error
        text = next((row[name] for name in TEXT_FIELDS if name in row), None) if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise BadInput(f"{file}, line {number}: no text in it.", f"Give it a field {' or '.join(TEXT_FIELDS)}.")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise BadInput(
                f"{file}, line {number}: its text holds half of a character (a surrogate).",
                "Mend or remove the line.",
            )
        yield Document(text, file, number)
