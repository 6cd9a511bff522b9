"""Whether a run may begin in a folder, or go on there: the same options, the same data. Knows no model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BadInput
from ..locks import locked
from .base import Base
from .items import Source
from .options import Options, from_json
from .records import last_checkpoint
from .sources import Examples

DATA, REFERENCE = "data.json", "reference.npy"


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """No other process trains in the folder, which is made, while this lasts. Raises `BadInput` where one does already.

    The lock is on the folder itself, so that nothing is left behind; a file system without locks guards nothing.
    """
    run.mkdir(parents=True, exist_ok=True)
    folder = os.open(run, os.O_RDONLY)
    try:
        with suppress(OSError):
            if not locked(folder):
                raise BadInput(f"Another process trains in {run}.", "Wait for it, or name another folder with --out.")
        yield
    finally:
        os.close(folder)


def claim(options: Options) -> None:
    """Raise `BadInput` unless the folder is new, or a run of the same options that was stopped."""
    run = Path(options.out)
    if (run / "done.json").is_file():
        raise BadInput(f"{run} holds a finished run.", "Name another folder with --out.")
    if (run / "run.json").is_file():
        if different := options.differences(from_json(run / "run.json")):
            raise BadInput(
                f"{run} holds a run with other options: {', '.join(different)}.",
                "Give the same ones to go on with it, or name another folder with --out.",
            )
    elif run.exists() and any(path.name not in ("base", REFERENCE) and path.name[0] != "." for path in run.iterdir()):
        raise BadInput(f"{run} exists already and is no run.", "Name another folder with --out.")
    run.mkdir(parents=True, exist_ok=True)


def same_data(run: Path, data: dict[str, str]) -> None:
    """Raise `BadInput` where a run that has begun would go on with other data than it began with."""
    file = run / DATA
    begun = last_checkpoint(run / "checkpoints") is not None or (run / REFERENCE).is_file()
    if begun and file.is_file() and json.loads(file.read_text(encoding="utf-8")) != data:
        raise BadInput(
            f"The data or the tokenizer of the run in {run} have changed since it began.",
            "Restore them to go on with it, or begin anew in another folder with --out.",
        )


def data_of(source: Source, base: Base) -> dict[str, str]:
    """What must be the same when a run goes on."""
    return {"data": source.identity, "tokenizer": base.tokenizer_hash}


def left_out(source: Source) -> list[str]:
    """Rows that are not trained on: place and reason."""
    return [*source.refused, *(source.cut.places if isinstance(source, Examples) else ())]
