"""`hanpaca verify`: what a model on disk really is, and whether it can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .arguments import Parser, add_json
from .output import as_json, note, progress, say

if TYPE_CHECKING:
    from ...core.verify import Report


def run(argv: list[str]) -> int:
    """Print facts and problems; 1 where there are problems."""
    from ...core.verify import verify

    parser = Parser("verify", "Say what a model on disk really is: shape, vocabulary, template, checksum.")
    parser.add_argument("path", help="a .gguf file, a checkpoint folder, a LoRA adapter, or the name of a pulled model")
    parser.add_argument("--no-checksum", action="store_true", help="do not read whole files to compare checksums")
    add_json(parser)
    found = parser.parse(argv)
    with progress("Checking", bytes_=True) as show:
        model, *adapters = [
            verify(place, checksum=not found.no_checksum, on_progress=lambda done, total: show(done, total, ""))
            for place in _places(found.path)
        ]
    ok = all(report.ok for report in (model, *adapters))
    if found.json:
        as_json(_plain(model) | {"ok": ok, "adapters": [_plain(report) for report in adapters]})
    else:
        for report in (model, *adapters):
            _print(str(report.path), report.facts, report.problems)
    return 0 if ok else 1


def _places(name: str) -> list[str]:
    """The path itself, or where the model of that name lies, then the adapters that belong to it."""
    from pathlib import Path

    from ...core.catalog import resolve
    from ...core.errors import BadInput

    if Path(name).expanduser().exists():
        return [name]
    source = resolve(name)
    if source.path is None:
        raise BadInput("A server's model has no files here to look at.", "Give a file, a folder or a model's name.")
    return [str(source.path), *map(str, source.loras)]


def _plain(report: Report) -> dict[str, Any]:
    return {"path": str(report.path), "ok": report.ok, "facts": report.facts, "problems": report.problems}


def _print(path: str, facts: dict[str, Any], problems: tuple[str, ...]) -> None:
    say(path)
    for name, value in facts.items():
        say(f"  {name:<13} {value:,}" if isinstance(value, int) else f"  {name:<13} {value}")
    for problem in problems:
        note(f"problem: {problem}")
    say("No problem was found." if not problems else f"{len(problems)} problem{'s' * (len(problems) > 1)}, see above.")
