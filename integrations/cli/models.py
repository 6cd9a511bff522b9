"""`hanpaca models`: the catalog as a table, and what of it is on this machine."""

from __future__ import annotations

from typing import Any

from ...core.catalog import CatalogEntry, entries
from ...core.errors import ModelNotFound
from .arguments import Parser, add_json
from .output import as_json, say, table


def run(argv: list[str]) -> int:
    """Print the catalog."""
    parser = Parser("models", "The models that have a name here. Any other .gguf file can be named by its path.")
    parser.add_argument("--kind", choices=["base", "chat"], help="only models that continue texts, or that chat")
    parser.add_argument("--here", action="store_true", help="only what is on this machine")
    add_json(parser)
    found = parser.parse(argv)
    rows = [_row(known) for known in entries() if found.kind in (None, known.kind)]
    rows = [row for row in rows if row["files"] or not found.here]
    if found.json:
        as_json({"models": rows})
    elif not rows:
        say("None of these is on this machine yet. `hanpaca pull chinese-alpaca-2-7b` downloads one.")
    else:
        _print(rows)
    return 0


def _row(known: CatalogEntry) -> dict[str, Any]:
    return {
        "name": known.name,
        "kind": known.kind,
        "parameters": known.parameters,
        "context": known.native_context,
        "languages": list(known.languages),
        "licence": known.licence,
        "gguf": known.gguf,
        "full": known.full,
        "lora": known.lora,
        "types": list(known.types),
        "note": known.note,
        "files": files_of(known),
    }


def _print(rows: list[dict[str, Any]]) -> None:
    table(
        ["name", "kind", "size", "context", "languages", "here"],
        [
            [
                row["name"],
                row["kind"],
                f"{row['parameters'] / 1e9:.1f}B" if row["parameters"] >= 1e9 else f"{row['parameters'] / 1e6:.0f}M",
                f"{row['context'] // 1024}K",
                ", ".join(row["languages"]),
                ", ".join(row["files"]) or "-",
            ]
            for row in rows
        ],
    )
    say()
    say("`hanpaca pull NAME` or `hanpaca pull NAME:Q4_K` downloads one; `hanpaca doctor` says which fit this machine.")


def files_of(known: CatalogEntry) -> list[str]:
    """The names of the entry's files on this machine, without what they have in common."""
    if known.package is not None:
        from ...core.catalog import resolve

        try:
            source = resolve(known.name)
        except ModelNotFound:
            return []
        return [source.path.name] if source.path else []
    from ...core.cache import cached

    mine = [model for model in cached() if model.complete and model.repository in (known.gguf, known.full)]
    return sorted(model.type or "full" for model in mine)
