"""`hanpaca pull` downloads a model, and `hanpaca rm` deletes one again."""

from __future__ import annotations

import dataclasses

from .arguments import Parser, add_json
from .output import as_json, progress, say, size


def run(argv: list[str]) -> int:
    """Download a model, continuing what an earlier try left."""
    parser = Parser("pull", "Download a model. An interrupted download goes on where it stopped.")
    parser.add_argument("name", help="a name from `hanpaca models`, with :TYPE if wanted, or a hub id (org/name)")
    parser.add_argument("--what", choices=["gguf", "full", "lora"], default="gguf", help="default: %(default)s")
    parser.add_argument(
        "--from",
        dest="source",
        default="hub",
        metavar="hub|modelscope|FOLDER",
        help="where to take it from; default: %(default)s",
    )
    parser.add_argument("--revision", help="a branch, tag or commit of the repository")
    add_json(parser)
    found = parser.parse(argv)
    from ...core.hub import pull

    with progress(f"Downloading {found.name}", bytes_=True) as show:
        pulled = pull(
            found.name,
            what=found.what,
            source=found.source,
            revision=found.revision,
            on_progress=lambda step: show(step.all_done, step.all_total, step.file),
        )
    if found.json:
        as_json(dataclasses.asdict(pulled))
        return 0
    say(f"{pulled.repository} {pulled.type or found.what}: {pulled.path} ({size(pulled.size)})")
    if pulled.reason:
        say(f"{pulled.reason}. Another one: hanpaca pull {found.name}:TYPE")
    if found.what == "gguf":
        say(f'Use it: hanpaca ask "…" --model {found.name}')
    return 0


def remove(argv: list[str]) -> int:
    """Delete a downloaded model."""
    parser = Parser("rm", "Delete a downloaded model.")
    parser.add_argument("name", help="as `hanpaca models` shows it, with :TYPE for one quantization only")
    add_json(parser)
    found = parser.parse(argv)
    from ...core.cache import remove as remove_from_cache

    freed = remove_from_cache(found.name)
    if found.json:
        as_json({"name": found.name, "bytes_freed": freed})
    else:
        say(f"{found.name} is deleted; {size(freed)} are free again.")
    return 0
