"""Any sentence-transformers model as an `Embedder`, from a folder or from the local Hugging Face cache.

Never goes to the network: a model that is not on this machine is an error that says how to get it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadModelFile, EngineUnavailable, ModelNotFound
from .embedding import EMBEDDING_HOME

_PREFIXES = (
    # of models whose own files do not say them: part of the name, query prefix, passage prefix
    ("e5-", "query: ", "passage: "),
    ("bge-small-zh", "为这个句子生成表示以用于检索相关文章：", ""),
    ("bge-base-zh", "为这个句子生成表示以用于检索相关文章：", ""),
    ("bge-large-zh", "为这个句子生成表示以用于检索相关文章：", ""),
    ("bge-small-en", "Represent this sentence for searching relevant passages: ", ""),
    ("bge-base-en", "Represent this sentence for searching relevant passages: ", ""),
    ("bge-large-en", "Represent this sentence for searching relevant passages: ", ""),
)
_HEAD = 1 << 20
"""Bytes of each file, from its beginning and its end, that tell one model from another."""


class SentenceModel:
    """A sentence-transformers model; its files are found at once, its weights load at first use.

    Raises `ModelNotFound` where there is no such folder and nothing of that name in the local cache.
    """

    def __init__(self, name: str) -> None:
        if find_spec("sentence_transformers") is None:
            raise EngineUnavailable(
                f"The embedding model {name} needs the package sentence-transformers.",
                'Install it with: pip install "hanpaca[sentence-transformers]"; or use multilingual-e5-small.',
            )
        self._folder, revision = find_folder(name, "embedding model", "or use the bundled multilingual-e5-small")
        self._name = name if revision else self._folder.name
        self._revision = revision or _fingerprint(self._folder)
        self._lock = RLock()

    @cached_property
    def identity(self) -> str:
        """Model, revision, prefixes and normalisation in one line."""
        return f"{self._name} {self._revision[:12]} {self._prefixes[0]!r}/{self._prefixes[1]!r} unit"

    @cached_property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._model.get_embedding_dimension())

    @cached_property
    def max_tokens(self) -> int:
        """Longest text it sees whole, in its own tokens; what is longer is cut by the model."""
        return int(self._model.max_seq_length or 512)

    def count_tokens(self, text: str) -> int:
        """Tokens of a passage, specials and prefix included."""
        with self._lock:
            ids = self._model.tokenizer(self._prefixes[1] + text, truncation=False, verbose=False)["input_ids"]
        return len(ids)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), dimension)."""
        return self._embed(texts, self._prefixes[0])

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), dimension)."""
        return self._embed(texts, self._prefixes[1])

    def _embed(self, texts: Sequence[str], prefix: str) -> NDArray[np.float32]:
        EMBEDDING_HOME.enter()
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        with self._lock:
            made = self._model.encode(list(texts), prompt=prefix, show_progress_bar=False, convert_to_numpy=True)
        vectors = np.asarray(made, np.float32)
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
        return unit

    @cached_property
    def _prefixes(self) -> tuple[str, str]:
        """The model's own prompts for queries and passages, else what is known of its family."""
        import json

        path = self._folder / "config_sentence_transformers.json"
        prompts = json.loads(path.read_text("utf-8")).get("prompts") or {} if path.is_file() else {}
        own = prompts.get("query", ""), prompts.get("document") or prompts.get("passage") or ""
        if any(own):
            return own
        name = self._name.lower()
        family = next((row for row in _PREFIXES if row[0] in name and "instruct" not in name), ("", "", ""))
        return family[1], family[2]

    @cached_property
    def _model(self) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        from .e5_torch import has_bfloat16

        kind = torch.bfloat16 if not torch.cuda.is_available() and has_bfloat16() else "auto"
        with self._lock, no_progress_bar():
            try:
                return SentenceTransformer(
                    str(self._folder), local_files_only=True, trust_remote_code=False, model_kwargs={"dtype": kind}
                )
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise BadModelFile(
                    f"The embedding model {self._name} cannot be loaded: {error}.",
                    "Give the folder of a sentence-transformers model, or use multilingual-e5-small.",
                ) from error


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """transformers draws one to the terminal for every model it loads."""
    from transformers.utils import logging as shared_logging

    logging: Any = shared_logging  # some of its functions carry no types
    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def find_folder(name: str, what: str, instead: str) -> tuple[Path, str]:
    """The model's folder, and its commit where it comes from the hub's cache ("" for a folder of the user's).

    Raises `ModelNotFound`, which says what the model was wanted for and what to do instead.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
            raise ModelNotFound(
                f"The folder {name} holds no {what}.", "It needs a modules.json or config.json and weights."
            )
        return folder.resolve(), ""
    from huggingface_hub import try_to_load_from_cache

    for repository in (name, f"sentence-transformers/{name}") if "/" not in name else (name,):
        try:
            found = try_to_load_from_cache(repository, "config.json")
        except ValueError:  # huggingface_hub's word for names that the hub does not allow
            break
        if isinstance(found, str):
            return Path(found).parent, Path(found).parent.name
    raise ModelNotFound(
        f"There is no {what} {name} on this machine.",
        f"Download it with: hf download {name}; give a folder; {instead}.",
    )


def _fingerprint(folder: Path) -> str:
    """A hash that follows the model's files, not the folder's place."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".bin", ".txt", ".model"):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                digest.update(file.read(_HEAD))
                file.seek(max(path.stat().st_size - _HEAD, 0))
                digest.update(file.read(_HEAD))
    return digest.hexdigest()
