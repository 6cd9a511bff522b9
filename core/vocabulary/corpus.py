"""Plain text files as a stream of lines. Knows no tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import BadInput


def text_files(paths: Sequence[Path]) -> list[Path]:
    """The .txt files that `paths` name, folders searched to the bottom, in a fixed order.

    Raises `BadInput` for a path that does not exist or where there is nothing to read.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise BadInput(f"{path} does not exist.", "Give text files, or folders that hold them.")
        found += sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not found:
        raise BadInput(f"No .txt file in {', '.join(map(str, paths))}.", "Give text files, or folders that hold them.")
    return found


def lines(files: Sequence[Path]) -> Iterator[str]:
    """Every line that is not blank, without its end. Raises `BadInput` for text that is not UTF-8."""
    for file in files:
        with file.open(encoding="utf-8-sig") as stream:
            try:
                for line in stream:
                    if stripped := line.strip():
                        yield stripped
            except UnicodeDecodeError as error:
                raise BadInput(f"{file} is not UTF-8 text.", "Save it as UTF-8.") from error
