"""`--preview` and `--plan` of the commands that train: what will be trained on, and what it will cost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import as_json, note, say, table

if TYPE_CHECKING:
    from ...core.training.items import Item
    from ...core.training.options import Options
    from ...core.training.run import Prepared

_STYLES = ((0.999, "bold green"), (1e-9, "yellow"))
"""Least weight and colour; what has none is dim."""


def preview(options: Options, count: int) -> int:
    """The first examples of the run in the order in which they are trained on."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(
        Text.assemble(("trained on", "bold green"), "  ", ("weighs less", "yellow"), "  ", ("read only", "dim"))
    )
    with _prepared(options) as ready:
        order, _ = ready.source.epoch(0, options.seed)
        for place, number in enumerate(order[:count].tolist(), 1):
            item = ready.source.item(number)
            trained = int((item.weights > 0).sum())
            console.print(Text(f"── {place}: {len(item.ids)} tokens, {trained} trained on ──", style="bold"))
            console.print(_coloured(item, ready.base.tokenizer))
    return 0


def _coloured(item: Item, tokenizer: Any) -> Any:
    """Stretches of one weight, decoded together: a character may be several tokens."""
    from rich.text import Text

    text, held, style = Text(), b"", ""
    for token, weight in zip(item.ids.tolist(), item.weights.tolist(), strict=True):
        mine = next((name for least, name in _STYLES if weight >= least), "dim")
        if mine != style and held:
            text.append(held.decode("utf-8", "replace"), style)
            held = b""
        style = mine
        held += tokenizer.token_bytes(token) or f"⟨{token}⟩".encode()
    text.append(held.decode("utf-8", "replace"), style)
    return text


def plan(options: Options, json: bool) -> int:
    """What the run will need."""
    from ...core.training.estimate import estimate

    with _prepared(options) as ready:
        found = estimate(ready)
    if json:
        as_json(found.as_dict())
        return 0
    table(["", ""], [[name, value] for name, value in found.rows()])
    say(found.sentence())
    return 0


@contextmanager
def _prepared(options: Options) -> Iterator[Prepared]:
    """The run laid out, with nothing left behind in its folder."""
    from ...core.training.run import prepare

    out = Path(options.out)
    with tempfile.TemporaryDirectory() as folder:
        yield prepare(options if out.exists() else replace(options, out=folder), note)
