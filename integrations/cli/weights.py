"""Commands that make model files: `convert`, `quantize`, `merge`, `extract-lora`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import Parser, add_json, some_path
from .output import as_json, note, progress, say, size, table

if TYPE_CHECKING:
    from ...core.weights.llama import Shape


def convert(argv: list[str]) -> int:
    """A checkpoint folder, or a LoRA adapter's, to a GGUF file."""
    from ...core.catalog import resolve
    from ...core.weights.convert import TYPES
    from ...core.weights.convert import convert as convert_to_gguf
    from ...core.weights.lora_file import convert_adapter

    parser = Parser("convert", "Write a LLaMA checkpoint (safetensors or .bin), or a LoRA adapter, as a GGUF file.")
    parser.add_argument("checkpoint", type=some_path, metavar="FOLDER")
    parser.add_argument("out", type=some_path, metavar="OUT.gguf")
    parser.add_argument("--type", choices=TYPES, default="f16", help="default: %(default)s")
    parser.add_argument(
        "--base", metavar="MODEL", help="for an adapter: the folder, GGUF file or name of what it was trained on"
    )
    add_json(parser)
    found = parser.parse(argv)
    if (found.checkpoint / "adapter_config.json").is_file():
        base = None if found.base is None else resolve(found.base).path
        with progress("Converting", bytes_=True) as show:
            out = convert_adapter(
                found.checkpoint, found.out, found.type, base, lambda done, total: show(done, total, "")
            )
        return _made(out, found.json)
    if found.base is not None:
        parser.error(f"--base is for LoRA adapters, and {found.checkpoint} has no adapter_config.json")
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
    parser.add_argument(
        "source",
        type=some_path,
        metavar="FILE",
        help="a GGUF file; for --plan also a folder, or a name from `hanpaca models`",
    )
    parser.add_argument("out", type=some_path, nargs="?", metavar="OUT.gguf")
    parser.add_argument(
        "type",
        nargs="?",
        metavar="TYPE",
        help="llama.cpp's name or the published one: Q4_K_M or q4_k; Q4_0+BF16: with the output matrix in BF16",
    )
    parser.add_argument("--plan", action="store_true", help="only show the size of every type, or of the types named")
    parser.add_argument(
        "--imatrix",
        type=some_path,
        metavar="FILE",
        help="the model's importance matrix (`hanpaca imatrix`): less is lost, and the smallest types need it",
    )
    parser.add_argument("--threads", type=int, metavar="N")
    add_json(parser)
    found = parser.parse(argv)
    if found.plan and (found.imatrix is not None or found.threads is not None):
        parser.error("--plan computes nothing: leave out --imatrix and --threads")
    if found.plan:
        wanted = [text for text in (found.out, found.type) if text is not None]
        return _plan(found.source, [str(text) for text in wanted] or quantizing.TYPES, found.json)
    if found.out is None or found.type is None:
        parser.error("OUT.gguf and TYPE are needed, or --plan. Types: " + ", ".join(quantizing.TYPES))
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
    """A base checkpoint and LoRA adapters to a whole checkpoint, and to a GGUF file if wanted."""
    from ...core.weights.chain import check_type, need_room, to_gguf
    from ...core.weights.merge import merge as merge_adapters

    parser = Parser("merge", "Merge LoRA adapters into a base checkpoint, shard by shard.")
    parser.add_argument("base", type=some_path, metavar="BASE")
    parser.add_argument("loras", type=some_path, nargs="+", metavar="LORA", help="one or more, merged in this order")
    parser.add_argument(
        "--out", type=some_path, metavar="FOLDER", help="the new checkpoint; default: the last folder named"
    )
    parser.add_argument("--verify", action="store_true", help="compute samples of every tensor again and compare")
    parser.add_argument("--gguf", metavar="TYPE", help="also write FOLDER-TYPE.gguf, for example Q4_K_M")
    add_json(parser)
    found = parser.parse(argv)
    loras, out = (found.loras, found.out) if found.out else (found.loras[:-1], found.loras[-1])
    if not loras:
        parser.error("BASE, at least one LORA and the new folder are needed")
    kind = check_type(found.base, found.gguf) if found.gguf else None
    file = out.parent / f"{out.name}-{kind}.gguf"
    if kind and file.exists():
        parser.error(f"{file} exists already")
    if kind:
        need_room(found.base, file, kind)
    with progress("Merging") as show:
        made = merge_adapters(
            found.base, loras, out, found.verify, lambda done, total: show(done, total, ""), on_note=note
        )
    if kind:
        with progress(f"Writing {kind}") as show:
            to_gguf(made, file, kind, lambda done, total: show(done, total, ""), on_note=note)
        if not found.json:
            _made(made, False)
    return _made(file if kind else made, found.json)


def extract(argv: list[str]) -> int:
    """What a tuning changed, as a LoRA adapter."""
    from ...core.weights.low_rank import extract_lora

    parser = Parser("extract-lora", "Write what a tuned checkpoint changed in its base as a LoRA adapter.")
    parser.add_argument("base", type=some_path, metavar="BASE")
    parser.add_argument("tuned", type=some_path, metavar="TUNED")
    parser.add_argument("out", type=some_path, metavar="OUT", help="the new adapter folder")
    parser.add_argument("--rank", type=int, default=64, metavar="N", help="default: %(default)s")
    add_json(parser)
    found = parser.parse(argv)
    with progress("Extracting") as show:
        made = extract_lora(found.base, found.tuned, found.out, found.rank, lambda done, total: show(done, total, ""))
    if found.json:
        as_json({"path": str(made.path), "kept": round(made.kept, 4), "left_out": list(made.left_out)})
        return 0
    say(f"{made.path}: holds {100 * made.kept:.1f} % of the squared change of the linear layers")
    if made.left_out:
        names = ", ".join(made.left_out[:3]) + (" …" if len(made.left_out) > 3 else "")
        note(f"Not in the adapter: {len(made.left_out)} other tensors that the tuning changed ({names}).")
    return 0


def _plan(source: Path, types: Sequence[str] | Mapping[str, int], json: bool) -> int:
    from ...core.weights.quantize import plan, type_name

    shape = None if source.exists() else _shape_of(str(source))
    sizes = plan(shape or source, list(types))
    made = {kind for kind, _ in sizes}
    if missing := [name for name in map(type_name, types) if name not in made]:
        note(f"llama.cpp cannot make of this model: {', '.join(missing)}.")
    if json:
        as_json({"types": [{"type": kind, "bytes": bytes_} for kind, bytes_ in sizes]})
        return 0
    table(["type", "size", "bytes"], [[kind, f"{bytes_ / 2**30:.2f} GiB", f"{bytes_:,}"] for kind, bytes_ in sizes])
    if shape is not None:
        note("From the published shape; a real file also holds the tokenizer, one or two MiB.")
    return 0


def _shape_of(name: str) -> Shape | None:
    """The shape of a model of the catalog; None where the name looks like a path."""
    from ...core.catalog import entry
    from ...core.weights.llama import Shape

    if "/" in name or name.endswith(".gguf"):
        return None
    known = entry(name)
    s = known.shape
    return Shape(s.layers, s.hidden, s.ffn, s.heads, s.kv_heads, known.vocabulary, s.head_dim, s.tied)


def _made(out: Path, json: bool) -> int:
    whole = out.stat().st_size if out.is_file() else sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    if json:
        as_json({"path": str(out), "bytes": whole})
    else:
        say(f"{out} ({size(whole)})")
    return 0
