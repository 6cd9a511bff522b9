"""Tables, progress, answers and citations on a terminal, in a pipe, or as JSON.

Knows no command. Results go to stdout, everything about the work itself to stderr.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .streams import harmless, is_unicode

GIB = 2**30
_HIGH_CONTROL = re.compile(r"[\x7f-\x9f]")
"""What JSON leaves as it is and a terminal may obey."""


def say(text: str = "") -> None:
    """One line of result."""
    print(harmless(text), flush=True)


def note(text: str) -> None:
    """One line about the work."""
    print(harmless(text), file=sys.stderr, flush=True)


def write(piece: str) -> None:
    """A piece of an answer, at once."""
    sys.stdout.write(harmless(piece))
    sys.stdout.flush()


def as_json(value: Any, *, lines: bool = True) -> None:
    """One JSON object, readable by people too; on one line where more objects follow (`lines` False)."""
    text = json.dumps(value, ensure_ascii=not is_unicode(sys.stdout), indent=2 if lines else None, default=str)
    print(_HIGH_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)


def width(text: str) -> int:
    """Columns that a text takes on a terminal: a Chinese character takes two."""
    return sum(
        2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1 for char in text
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns without ornament: they read well in a terminal, a pipe and an e-mail."""
    lines = [heads, *rows]
    widths = [max(width(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        cells = (cell + " " * (room - width(cell)) for cell, room in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())


def size(bytes_: float) -> str:
    """Bytes in the unit people use for them."""
    if bytes_ >= GIB:
        return f"{bytes_ / GIB:.1f} GiB"
    return f"{bytes_ / 2**20:.1f} MiB" if bytes_ >= 2**20 / 10 else f"{bytes_ / 1024:.1f} KiB"


@contextmanager
def progress(title: str, *, bytes_: bool = False) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr fed with (done, total, what); in a pipe, nothing. `bytes_`: the figures are bytes."""
    if not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    from rich import progress as bars
    from rich.console import Console

    counted = [bars.DownloadColumn(), bars.TransferSpeedColumn()] if bytes_ else [bars.MofNCompleteColumn()]
    what_is_done = bars.TextColumn("{task.description}", markup=False)
    columns = (bars.TextColumn(title), bars.BarColumn(), *counted, bars.TimeRemainingColumn(), what_is_done)
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total or None, description=what)


def short(path: str) -> str:
    """A path as the user would write it: relative below the working folder, line ends and the like escaped."""
    from ...rag.paths import printable

    with contextlib.suppress(ValueError):
        path = str(Path(path).relative_to(Path.cwd()))
    return printable(path)


def about(path: str, message: str) -> str:
    """What there is to say of a file; a message that begins with its name does not name it again."""
    return f"{short(path)}: {message.removeprefix(f'{Path(path).name}: ')}"


def quoted(text: str, most: int = 240) -> str:
    """A passage on a few indented lines, cut at `most` characters."""
    flat = " ".join(text.split())
    flat = flat if len(flat) <= most else flat[: most - 1].rstrip() + "…"
    room = max(40, min(shutil.get_terminal_size().columns, 110) - 6)
    return "\n".join(f"      {line}" for line in wrapped(flat, room))


def wrapped(text: str, room: int) -> list[str]:
    """Lines of at most `room` columns, broken at spaces and between Chinese characters."""
    lines, line = [], ""
    for piece in re.findall(r"[⺀-鿿豈-﫿＀-￯　-〿]|[^\s⺀-鿿豈-﫿＀-￯　-〿]+|\s+", text):
        if line and width(line + piece) > room:
            lines.append(line.rstrip())
            line = ""
        line += piece if line or not piece.isspace() else ""
    return [*lines, line.rstrip()] if line.strip() else lines
