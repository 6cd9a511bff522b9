"""`hanpaca models`: the catalog as a table, and what of it is on this machine."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...core.catalog import CatalogEntry, entries
from ...core.errors import ModelNotFound
from .arguments import Parser, add_json
from .output import as_json, say, size, table


def run(argv: list[str]) -> int:
    """Print the catalog."""
    parser = Parser("models", "The models that have a name here. Any other .gguf file can be named by its path.")
    parser.add_argument("--kind", choices=["base", "chat"], help="only models that continue texts, or that chat")
    parser.add_argument("--here", action="store_true", help="only what is on this machine")
    parser.add_argument(
        "--fit", action="store_true", help="what fits into this machine's memory, and with what context"
    )
    parser.add_argument("--cached", action="store_true", help="every downloaded file, unfinished downloads too")
    add_json(parser)
    found = parser.parse(argv)
    if found.fit and found.cached:
        parser.error("--fit and --cached do not go together")
    if found.here and (found.fit or found.cached):
        parser.error(f"--here and {'--fit' if found.fit else '--cached'} do not go together")
    if found.kind and found.cached:
        parser.error("--kind and --cached do not go together")
    if found.cached:
        return _cached(found.json)
    if found.fit:
        return _fit([known for known in entries() if found.kind in (None, known.kind)], found.json)
    rows = [_row(known) for known in entries() if found.kind in (None, known.kind)]
    rows = [row for row in rows if row["files"] or not found.here]
    if found.json:
        as_json({"models": rows})
    elif not rows:
        say("None of these is on this machine yet. `hanpaca pull chinese-alpaca-2-7b` downloads one.")
    else:
        _print(rows)
    return 0


def _cached(json: bool) -> int:
    from ...core.cache import cache_folder, cached

    models = cached()
    if json:
        as_json({"folder": str(cache_folder()), "models": [dataclasses.asdict(model) for model in models]})
        return 0
    if not models:
        say(f"Nothing is downloaded yet ({cache_folder()}). `hanpaca pull NAME` downloads a model.")
        return 0
    rows = [[m.name, size(m.size), "complete" if m.complete else "unfinished", str(m.path)] for m in models]
    table(["name", "size", "state", "path"], rows)
    say()
    say(f"{size(sum(model.size for model in models))} in all. `hanpaca rm NAME` deletes one.")
    return 0


def _fit(models: list[CatalogEntry], json: bool) -> int:
    from ...core.memory import available, fits

    memory = available()
    rows = fits(models, memory)
    if json:
        as_json({"memory_free": memory, "fits": [dataclasses.asdict(row) | {"fits": row.fits} for row in rows]})
        return 0
    say(f"{size(memory)} of memory are free. The longest context by type of keys and values (--kv-type), in tokens;")
    say("beyond a model's own window adaptive NTK or YaRN serves, up to 4.5 times of it.")
    say()
    kinds = ("f16", "q8_0", "q4_0")
    table(
        ["name", "type", "weights", "own window", *kinds],
        [
            [row.name, row.type, size(row.weights), f"{row.native_context:,}"]
            + [f"{row.contexts[kind]:,}" if row.contexts[kind] else "-" for kind in kinds]
            for row in rows
        ],
    )
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
