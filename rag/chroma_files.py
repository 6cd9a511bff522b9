"""What Chroma's index leaves in its files beside vectors. Knows hnswlib's file format and nothing else."""

from __future__ import annotations

import struct
from pathlib import Path

HEADER = struct.Struct("<I5Q")
"""Version, offset of level 0, room for so many elements, elements, bytes of an element, offset of the labels."""
LENGTH = 4
"""Bytes of an element in `length.bin`."""


def blank_unused(folder: Path) -> None:
    """Overwrite what lies behind the elements of every index in `folder` with zeros.

    hnswlib writes a new index with room for elements to come, and that room holds whatever the process's memory held
    before: words and vectors of deleted documents too. Call it only while nobody writes to the index.
    """
    for header in folder.glob("*/header.bin"):
        head = header.read_bytes()[: HEADER.size]
        if len(head) < HEADER.size:
            continue
        _, _, room, elements, size, labels = HEADER.unpack(head)
        if elements <= room and labels < size:
            _blank(header.with_name("data_level0.bin"), elements * size)
            _blank(header.with_name("length.bin"), elements * LENGTH)


def _blank(path: Path, used: int) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        file.seek(used)
        rest = file.read()
        if rest.strip(b"\0"):
            file.seek(used)
            file.write(bytes(len(rest)))
