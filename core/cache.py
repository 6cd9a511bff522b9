"""Downloaded models: where they lie, which there are, how to delete one.

Knows folders, no hubs and no engines. One folder holds everything, with one subfolder per repository (`ORG--NAME`);
beside each file lies `.FILE.json`, which says where it came from and what its checksum is.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .catalog import CatalogEntry, entries, published_type
from .errors import HanpacaError, ModelNotFound
from .memory import RESERVE, WORKING, available

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cached:
    """A model on this machine: one GGUF file (or split set), or one checkpoint or adapter."""

    repository: str
    name: str
    """What `load` and `hanpaca rm` take."""
    type: str | None
    path: Path
    size: int
    complete: bool


def cached() -> list[Cached]:
    """Every model in the cache, downloads that stopped half-way included."""
    models: list[Cached] = []
    root = cache_folder()
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if not folder.is_dir() or "--" not in folder.name:
            continue
        repository = folder.name.replace("--", "/", 1)
        known = next((e for e in entries() if repository in (e.gguf, e.full)), None)
        title = known.name if known else repository
        for file in sorted(folder.rglob("*.gguf")):
            if is_later_part(file.name):
                continue
            kind = type_of(file.name)
            size = sum(part.stat().st_size for part in parts_of(file))
            name = f"{title}:{kind}" if kind else title
            models.append(Cached(repository, name, kind, file, size, _has_all_parts(file)))
        rest = [f for f in folder.rglob("*") if f.is_file() and not f.name.endswith((".gguf", ".part", ".json.tmp"))]
        if any(f.name in ("config.json", "adapter_config.json") for f in rest):
            size = sum(f.stat().st_size for f in rest)
            models.append(Cached(repository, repository, None, folder, size, _has_all_weights(folder)))
        for part in sorted(folder.rglob("*.part")):
            models.append(Cached(repository, repository, type_of(part.name), part, part.stat().st_size, False))
    return models


def remove(name: str) -> int:
    """Delete a model from the cache, as `cached` names it: a repository's name deletes all of it, a bare catalog name
    every quantization. Returns the bytes freed. Raises `ModelNotFound` with the names there are."""
    have = cached()
    base, _, kind = name.partition(":")
    known = next((e for e in entries() if e.name == base.lower()), None)
    repositories = {base} | ({known.gguf, known.full, known.lora} if known else set())
    type_name = _spelled(known, kind) if kind else None
    chosen = [m for m in have if m.repository in repositories and (type_name is None or m.type == type_name)]
    if not chosen:
        names = ", ".join(sorted({model.name for model in have})) or "none"
        raise ModelNotFound(f"{name} is not among the downloaded models.", f"Downloaded: {names}.")
    for model in chosen:
        for path in [model.path] if model.path.is_dir() or not model.complete else parts_of(model.path):
            _delete(path)
    for folder in {folder_of(model.repository) for model in chosen}:
        if folder.is_dir() and not any(f.is_file() and not f.name.startswith(".") for f in folder.rglob("*")):
            shutil.rmtree(folder)
    return sum(model.size for model in chosen)


def cache_folder() -> Path:
    """Where downloads go: `HANPACA_CACHE`, or the user's cache folder. It may not exist yet."""
    chosen = os.environ.get("HANPACA_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("hanpaca")) / "models"


def folder_of(repository: str) -> Path:
    """The folder of one repository, "org/name", in the cache."""
    return cache_folder() / repository.replace("/", "--")


def find_gguf(repository: str, pattern: str | None = None) -> Path | None:
    """The best whole downloaded GGUF file of `repository` whose name matches `pattern` (any letter case): the largest
    that fits into memory, or the smallest where none does."""
    files = [
        file
        for folder in _folders(repository)
        for file in folder.rglob("*.gguf")
        if (pattern is None or fnmatch(file.name.lower(), pattern.lower()))
        and not is_later_part(file.name)
        and _has_all_parts(file)
    ]
    if len(files) < 2:
        return files[0] if files else None
    sizes = {file: sum(part.stat().st_size for part in parts_of(file)) for file in files}
    room = available() * RESERVE - WORKING
    fitting = [file for file in files if sizes[file] <= room]
    chosen = max(fitting, key=sizes.__getitem__) if fitting else min(files, key=sizes.__getitem__)
    why = "the largest here that fits the free memory" if fitting else "the smallest here; none fits the free memory"
    _log.info("%s: using %s, %s", repository, chosen.name, why)
    return chosen


def find_checkpoint(repository: str) -> Path | None:
    """The folder of a whole downloaded checkpoint."""
    folders = (folder for folder in _folders(repository) if (folder / "config.json").exists())
    return next(filter(_has_all_weights, folders), None)


def _folders(repository: str) -> list[Path]:
    """Where `repository` may lie: our own folder, then what other tools left in the hub's cache, newest first."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    snapshots = (hub / f"models--{repository.replace('/', '--')}" / "snapshots").glob("*/")
    return [folder_of(repository), *sorted(snapshots, key=lambda folder: -folder.stat().st_mtime)]


def recorded(path: Path) -> dict[str, Any] | None:
    """What was noted when `path` was downloaded (size, sha256, source, revision); None for other files."""
    try:
        note = json.loads(_note(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


_TYPE = re.compile(
    r"(?:^|[-._])((?:IQ\d_(?:XXS|XS|NL|S|M)|T?Q\d_(?:K_(?:XL|[SML])|[K01])|BF16|F16|FP16|F32)(?:-im)?)(?=[-._])",
    re.IGNORECASE,
)


def type_of(file_name: str) -> str | None:
    """The quantization that a GGUF file's name tells, as spelled there."""
    found = _TYPE.findall(file_name)
    return str(found[-1]) if found else None


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def write_note(path: Path, note: dict[str, Any]) -> None:
    """Note beside `path` where it came from; its size is added."""
    temporary = _note(path).with_suffix(".json.tmp")
    temporary.write_text(json.dumps(note | {"size": path.stat().st_size}, indent=1), encoding="utf-8")
    temporary.replace(_note(path))


_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def is_later_part(name: str) -> bool:
    """Whether `name` is a part of a split GGUF file, but not the first."""
    match = _PART.search(name)
    return match is not None and int(match[1]) != 1


def parts_of(path: Path) -> list[Path]:
    """All parts of the GGUF file whose first part, or only one, is `path`."""
    match = _PART.search(path.name)
    return sorted(path.parent.glob(f"{path.name[: match.start()]}-*-of-{match[2]}.gguf")) if match else [path]


def _has_all_parts(path: Path) -> bool:
    match = _PART.search(path.name)
    return match is None or len(parts_of(path)) == int(match[2])


def _has_all_weights(folder: Path) -> bool:
    """Whether every weight file of a checkpoint or an adapter is there: they are fetched after all others."""
    from .weights.checkpoint import weight_files

    adapter = (folder / "adapter_config.json").exists() and not (folder / "config.json").exists()
    try:
        return bool(weight_files(folder, ("adapter_model",) if adapter else ("model", "pytorch_model")))
    except HanpacaError:
        return False


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
        _note(path).unlink(missing_ok=True)


def _spelled(known: CatalogEntry | None, kind: str) -> str:
    try:
        return published_type(known, kind) if known is not None else kind
    except HanpacaError:
        return kind
