"""Commands that make model files: `convert`, `quantize`, `merge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .arguments import Parser, add_json
from .output import as_json, note, progress, say, size, table

USUAL = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0", "Q3_K_M", "Q2_K")
"""The types whose sizes `--plan` shows."""


def convert(argv: list[str]) -> int:
    """A checkpoint folder to a GGUF file."""
    from ...core.weights.convert import TYPES
    from ...core.weights.convert import convert as convert_to_gguf

    parser = Parser("convert", "Write a LLaMA checkpoint (safetensors or .bin) as a GGUF file.")
    parser.add_argument("checkpoint", type=Path, metavar="FOLDER")
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    parser.add_argument("--type", choices=TYPES, default="f16", help="default: %(default)s")
    add_json(parser)
    found = parser.parse(argv)
    with progress("Converting", bytes_=True) as show:
        out = convert_to_gguf(
            found.checkpoint, found.out, found.type, lambda done, total: show(done, total, ""), on_note=note
        )
    return _made(out, found.json)


def quantize(argv: list[str]) -> int:
    """A GGUF file to a smaller one."""
    from ...core.weights import quantize as quantizing

    parser = Parser(
        "quantize", "Write a GGUF file in a smaller type, or show with --plan how large each type would be."
    )
    parser.add_argument("source", type=Path, metavar="FILE", help="a GGUF file (for --plan, a checkpoint folder too)")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT.gguf")
    parser.add_argument("type", nargs="?", help="for example Q4_K_M")
    parser.add_argument("--plan", action="store_true", help="only show the sizes of the usual types, or of TYPE")
    parser.add_argument("--imatrix", type=Path, metavar="FILE", help="an importance matrix, for the smallest types")
    parser.add_argument("--threads", type=int, metavar="N")
    add_json(parser)
    found = parser.parse(argv)
    if found.plan:
        wanted = [text for text in (found.out, found.type) if text is not None]
        return _plan(quantizing.plan(found.source, [str(text) for text in wanted] or USUAL), found.json)
    if found.out is None or found.type is None:
        parser.error("OUT.gguf and a type are needed; types: " + ", ".join(quantizing.TYPES))
    with progress("Quantizing") as show:
        out = quantizing.quantize(
            found.source,
            found.out,
            found.type,
            lambda done, total: show(done, total, ""),
            threads=found.threads,
            imatrix=found.imatrix,
        )
    return _made(out, found.json)


def merge(argv: list[str]) -> int:
    """A base checkpoint and LoRA adapters to a whole checkpoint."""
    from ...core.weights.merge import merge as merge_adapters

    parser = Parser("merge", "Merge LoRA adapters into a base checkpoint, shard by shard.")
    parser.add_argument("base", type=Path, metavar="BASE")
    parser.add_argument("loras", type=Path, nargs="+", metavar="LORA", help="one or more, merged in this order")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the new checkpoint")
    parser.add_argument("--verify", action="store_true", help="compute samples of every tensor again and compare")
    add_json(parser)
    found = parser.parse(argv)
    with progress("Merging") as show:
        out = merge_adapters(
            found.base, found.loras, found.out, found.verify, lambda done, total: show(done, total, ""), on_note=note
        )
    return _made(out, found.json)


def _plan(sizes: Sequence[tuple[str, int]], json: bool) -> int:
    if json:
        as_json({"types": [{"type": kind, "bytes": bytes_} for kind, bytes_ in sizes]})
    else:
        table(["type", "size", "bytes"], [[kind, size(bytes_), f"{bytes_:,}"] for kind, bytes_ in sizes])
    return 0


def _made(out: Path, json: bool) -> int:
    whole = out.stat().st_size if out.is_file() else sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    if json:
        as_json({"path": str(out), "bytes": whole})
    else:
        say(f"{out} ({size(whole)})")
    return 0
