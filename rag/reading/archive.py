"""ZIP archives: every readable file in them, one after another, each under a heading with its name."""

from __future__ import annotations

import zipfile
from pathlib import PurePosixPath

from ...core.errors import EngineUnavailable, HanpacaError, UnreadableDocument
from ..readers import FORMATS, Document, read_bytes
from . import ocr
from .build import TextBuilder
from .zips import member_name, open_zip, read_member

_SHOWN = 20


def read(data: bytes, name: str, encoding: str | None) -> Document:
    """An archive; what cannot be read in it is named in the warnings. Archives within archives are not opened."""
    archive = open_zip(data, "ZIP archive")
    builder = TextBuilder()
    skipped: list[str] = []
    for info in archive.infolist():
        member = member_name(info)
        if info.is_dir() or _is_litter(member):
            continue
        try:
            _add(builder, archive, info, member, encoding)
        except EngineUnavailable:
            raise
        except HanpacaError as error:
            short = error.problem.removeprefix(PurePosixPath(member).name).lstrip(": ")
            hint = f" {ocr.HINT}" if error.hint == ocr.HINT else ""
            skipped.append(f"{member}: {short}{hint}")
    if not builder.length:
        why = skipped[0] if skipped else "it is empty"
        raise UnreadableDocument(f"The archive holds no file that can be read ({why}).", "Add files with text to it.")
    builder.warnings += skipped[:_SHOWN]
    if len(skipped) > _SHOWN:
        hint = f". {ocr.HINT}" if any(ocr.HINT in line for line in skipped[_SHOWN:]) else ""
        builder.warnings.append(f"and {len(skipped) - _SHOWN} more files that cannot be read{hint}")
    return builder.document("zip")


def _is_litter(member: str) -> bool:
    parts = PurePosixPath(member).parts
    return not parts or parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)


def _add(
    builder: TextBuilder, archive: zipfile.ZipFile, info: zipfile.ZipInfo, member: str, encoding: str | None
) -> None:
    path = PurePosixPath(member)
    suffix = path.suffix.lower()
    if suffix == ".zip" or suffix not in FORMATS:
        raise UnreadableDocument(f"files of type {suffix or 'without extension'} in archives are not read", "")
    document = read_bytes(read_member(archive, info, "ZIP archive"), path.name, encoding)
    builder.break_(2)
    builder.mark("file", member, level=1)
    builder.mark("page", "")  # the pages of the member before end here
    builder.include(document, deeper=1)
    builder.warnings += [f"{member}: {warning}" for warning in document.warnings]
