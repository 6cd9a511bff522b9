"""What a model on disk really is: read from the files themselves, compared with the catalog and with checksums.

Loads no engine. Facts are what the files say; problems are what would make a model fail or answer nonsense.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cache import parts_of, recorded
from .catalog import CatalogEntry, entries, entry_of_file
from .chat import FIRST_GENERATION
from .errors import HanpacaError, ModelNotFound
from .gguf_header import GGUFInfo, read, read_model, rope_of
from .hub_sources import checksums
from .rope import SECOND_GENERATION_VOCABULARY, Rope


@dataclass(frozen=True)
class Report:
    """What was found. `problems` is empty for a model that can be used."""

    path: Path
    facts: dict[str, Any]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(path: str | Path, *, checksum: bool = True, on_progress: Callable[[int, int], None] | None = None) -> Report:
    """Look at a GGUF file, a checkpoint folder or a LoRA adapter.

    With `checksum`, SHA-256 of each file is computed where a right one is known (from the download, or from SHA256SUMS
    and NAME.sha256 beside it); `on_progress` hears (bytes done, bytes in all). Raises `ModelNotFound` for no such path;
    everything else that is wrong is a problem in the report.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ModelNotFound(f"There is no file or folder {path}.", "Give a .gguf file, a checkpoint or an adapter.")
    from .weights.checkpoint import sound

    facts: dict[str, Any] = {}
    problems: list[str] = []
    try:
        look = _gguf if path.is_file() else _adapter if (path / "adapter_config.json").exists() else _checkpoint
        with sound(path):
            look(path, facts, problems)
    except HanpacaError as error:
        problems.append(str(error))
    if checksum:
        _check_sums(path, facts, problems, on_progress or (lambda _done, _all: None))
    return Report(path, facts, tuple(problems))


def _gguf(path: Path, facts: dict[str, Any], problems: list[str]) -> None:
    info = read(path)
    if info.is_adapter:
        facts |= {"format": "GGUF adapter", "architecture": info.architecture, "tensors": len(info.tensors)}
        return
    info = read_model(path)
    layers, hidden = int(info.number("block_count", 0)), int(info.number("embedding_length", 0))
    heads = int(info.number("attention.head_count", 0))
    weights = Counter(tensor.type for tensor in info.tensors if len(tensor.shape) > 1)
    facts |= {
        "format": f"GGUF, {info.file_size:,} bytes",
        "name": info.metadata.get("general.name", ""),
        "architecture": info.architecture,
        "shape": _shape_text(
            layers, hidden, info.number("feed_forward_length", 0), heads, info.number("attention.head_count_kv", heads)
        ),
        "parameters": sum(_elements(tensor.shape) for tensor in info.tensors),
        "weights": ", ".join(f"{count} × {kind}" for kind, count in weights.most_common()),
        "vocabulary": _vocabulary_text(info.vocabulary_size),
        "context": _context_text(rope_of(info)),
        "template": _template_text(info.chat_template, info.vocabulary_size),
    }
    rows = {tensor.name: tensor.shape[-1] for tensor in info.tensors if len(tensor.shape) == 2}
    for name in ("token_embd.weight", "output.weight"):
        if info.vocabulary_size and name in rows and rows[name] != info.vocabulary_size:
            problems.append(
                f"{name} has {rows[name]:,} rows, but the vocabulary {info.vocabulary_size:,} pieces: they belong to "
                "different models."
            )
    _missing_layers(info, layers, problems)
    _compare(path, rope_of(info), facts, problems, vocabulary=info.vocabulary_size, layers=layers, hidden=hidden)


def _missing_layers(info: GGUFInfo, layers: int, problems: list[str]) -> None:
    names = [tensor.name for part in parts_of(info.path) for tensor in read(part).tensors]
    there = Counter(int(found[1]) for name in names if (found := re.match(r"blk\.([0-9]+)\.", name)))
    odd = [layer for layer in range(layers) if there[layer] != max(there.values(), default=0)]
    if odd:
        problems.append(f"{len(odd)} of {layers} layers lack tensors, the first is layer {odd[0]}.")


def _checkpoint(path: Path, facts: dict[str, Any], problems: list[str]) -> None:
    from .weights.checkpoint import Checkpoint
    from .weights.llama import Shape, read_rope
    from .weights.vocabulary_files import token_count

    found = Checkpoint.open(path)
    shape, rope = Shape.of(found.config), read_rope(found.config)
    kinds = Counter(tensor.dtype for tensor in found.tensors.values())
    tokens = token_count(path)
    facts |= {
        "format": f"checkpoint, {len({tensor.file for tensor in found.tensors.values()})} weight files",
        "architecture": "llama",
        "shape": _shape_text(shape.layers, shape.hidden, shape.ffn, shape.heads, shape.kv_heads),
        "parameters": sum(_elements(tensor.shape) for tensor in found.tensors.values()),
        "weights": ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common()),
        "vocabulary": _vocabulary_text(shape.vocabulary),
        "context": _context_text(rope),
        "template": _template_text(_template_of(path), shape.vocabulary),
    }
    missing = [name for name in shape.weights() if name not in found.tensors]
    wrong = [n for n, s in shape.weights().items() if n in found.tensors and found.tensors[n].shape != s]
    if missing:
        problems.append(f"{len(missing)} weights are missing, the first is {missing[0]}.")
    for name in wrong[:3]:
        problems.append(f"{name} is {found.tensors[name].shape}, but config.json makes it {shape.weights()[name]}.")
    if tokens is None:
        problems.append("There is no tokenizer beside the weights.")
    elif tokens > shape.vocabulary:
        problems.append(f"The tokenizer has {tokens:,} tokens, but the model {shape.vocabulary:,} rows.")
    _compare(path, rope, facts, problems, vocabulary=shape.vocabulary, layers=shape.layers, hidden=shape.hidden)


def _template_of(folder: Path) -> str | None:
    from .weights.checkpoint import read_json

    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = read_json(folder / "tokenizer_config.json").get("chat_template")
    return template if isinstance(template, str) else None


def _adapter(path: Path, facts: dict[str, Any], problems: list[str]) -> None:
    from .weights.adapter import EMBEDDING, HEAD, SPARE_ROWS, Adapter
    from .weights.vocabulary_files import token_count

    found = Adapter.open(path)
    tokens = token_count(path)
    rows = {name: tensor.shape[0] for name, tensor in found.full.items() if name in (EMBEDDING, HEAD)}
    facts |= {
        "format": "LoRA adapter",
        "base": found.config.get("base_model_name_or_path") or "not named",
        "rank": found.config.get("r"),
        "weights": f"{len(found.low_rank)} low-rank, {len(found.full)} in full",
        "vocabulary": _vocabulary_text(next(iter(rows.values()), tokens or 0)),
    }
    for name, count in rows.items():
        if tokens is not None and not 0 <= count - tokens < SPARE_ROWS:
            problems.append(f"{name} has {count:,} rows, but the tokenizer {tokens:,}: they do not belong together.")


def _compare(
    path: Path, rope: Rope, facts: dict[str, Any], problems: list[str], *, vocabulary: int, layers: int, hidden: int
) -> None:
    """What the catalog says to it: by name and shape, or by shape alone."""
    known = entry_of_file(path.resolve(), vocabulary=vocabulary, layers=layers, hidden=hidden)
    if known is not None:
        facts["catalog"] = f"{known.name} ({known.kind})"
        _compare_rope(known, rope, problems)
    else:
        same = [e for e in entries() if (e.vocabulary, e.shape.layers, e.shape.hidden) == (vocabulary, layers, hidden)]
        names = ", ".join(e.name for e in same if e.native_context == rope.native_context)
        facts["catalog"] = f"by its shape one of: {names}" if names else "not a model of the catalog"
        name = f"{path.name} {path.parent.name.partition('--')[2]}".lower()  # a download's folder is ORG--NAME
        named = next((e for e in sorted(entries(), key=lambda e: -len(e.name)) if e.name in name), None)
        if named is not None:
            problems.append(f"It is called like {named.name}, but has another shape or vocabulary.")
    if vocabulary in FIRST_GENERATION:
        problems.append(
            f"This is {FIRST_GENERATION[vocabulary]}, the first generation: its tokenizer and template do not fit "
            "the second generation's models, and the two must not be mixed."
        )


def _compare_rope(known: CatalogEntry, rope: Rope, problems: list[str]) -> None:
    own = known.rope
    if (rope.scaling, rope.factor, rope.native_context) != (own.scaling, own.factor, own.native_context):
        problems.append(
            f"{known.name} has {_context_text(own)}, but this file says {_context_text(rope)}. Loaded under the "
            "catalog's name, it runs with the catalog's."
        )


def _check_sums(
    path: Path, facts: dict[str, Any], problems: list[str], on_progress: Callable[[int, int], None]
) -> None:
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".")
    if path.is_file():
        files = parts_of(path)
    sums = checksums(path.parent if path.is_file() else path)
    known = {file: sums.get(file.name) or (recorded(file) or {}).get("sha256") for file in files}
    total, before, right = sum(file.stat().st_size for file in files if known[file]), 0, 0
    for file, wanted in known.items():
        if not wanted:
            continue

        def report(done: int, before: int = before) -> None:
            on_progress(before + done, total)

        if _sha256(file, report) == wanted:
            right += 1
        else:
            problems.append(f"{file.name} is not what was downloaded: its SHA-256 is another. Fetch it again.")
        before += file.stat().st_size
    checked = sum(1 for wanted in known.values() if wanted)
    facts["checksum"] = f"{right} of {checked} files right" if checked else "none is known to compare with"


def _sha256(path: Path, on_bytes: Callable[[int], None]) -> str:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while data := file.read(1 << 22):
            digest.update(data)
            done += len(data)
            on_bytes(done)
    return digest.hexdigest()


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _shape_text(layers: float, hidden: float, ffn: float, heads: float, kv_heads: float) -> str:
    grouped = f" ({kv_heads:g} for keys and values)" if kv_heads != heads else ""
    return f"{layers:g} layers, hidden {hidden:g}, feed-forward {ffn:g}, {heads:g} heads{grouped}"


def _vocabulary_text(size: int) -> str:
    if size in FIRST_GENERATION:
        return f"{size:,} pieces: {FIRST_GENERATION[size]}, first generation"
    generation = {
        SECOND_GENERATION_VOCABULARY: ": Chinese-LLaMA-2 / Alpaca-2, second generation",
        32_000: ": LLaMA's own",
    }.get(size, "")
    return f"{size:,} pieces{generation}" if size else "none"


def _context_text(rope: Rope) -> str:
    scaling = "" if rope.scaling == "none" else f", {rope.scaling} ×{rope.factor:g} from {rope.trained:,}"
    return f"{rope.native_context:,} positions (RoPE base {rope.base:g}{scaling})"


def _template_text(template: str | None, vocabulary: int) -> str:
    if template:
        return "in the model's metadata"
    if vocabulary == SECOND_GENERATION_VOCABULARY:
        return "none in the files; Alpaca-2 models use llama-2"
    return "none"
