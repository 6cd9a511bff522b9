"""Plain text → token ids on disk → blocks. Knows a tokenizer, no model.

A corpus is tokenised once: the ids lie in the cache under a hash of the texts' contents, the tokenizer and the
settings, and are read from there a block at a time, so that a corpus may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chat import Tokenizer
from ..errors import BadInput
from ..vocabulary.corpus import documents, text_files
from ..weights.files import new_folder
from .duplicates import Duplicates
from .items import Item

VERSION = 1
"""Of the files in the cache."""
_PIECE = 100_000
"""Characters that are tokenised at a time, cut at line ends."""
Hears = Callable[[str], None]


@dataclass(frozen=True)
class Counts:
    """What a corpus holds."""

    files: int
    characters: int
    tokens: int
    documents: int
    duplicates: int
    """Paragraphs left out."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Ids in one row, each document between the tokenizer's BOS (where it adds one) and EOS."""

    ids: NDArray[np.uint32]
    starts: NDArray[np.int64]
    """Where documents begin."""
    counts: Counts
    identity: str = ""
    """Changes when the text or its tokenizer does."""

    def blocks(self, length: int) -> int:
        """How many blocks of `length` tokens there are, the last, shorter one included."""
        return -(-len(self.ids) // length)

    def block(self, number: int, length: int) -> Item:
        """A block; what belongs to different documents does not see each other."""
        first = number * length
        ids = np.asarray(self.ids[first : first + length])
        low, high = np.searchsorted(self.starts, [first + 1, first + len(ids)])
        edges = [0, *(self.starts[low:high] - first).tolist(), len(ids)]
        weights = np.ones(len(ids), dtype=np.float32)
        weights[edges[:-1]] = 0
        return Item(ids, weights, tuple(int(b - a) for a, b in pairwise(edges)))


def open_corpus(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    tokenizer_hash: str,
    cache: Path,
    *,
    deduplicate: bool = True,
    near: float | None = None,
    hears: Hears | None = None,
) -> Corpus:
    """The corpus of the text files that `paths` name, from the cache where it was tokenised before."""
    files = text_files(paths)
    settings = {"version": VERSION, "tokenizer": tokenizer_hash, "exact": deduplicate, "near": near}
    key = hashlib.sha256(json.dumps(settings).encode())
    for file in files:
        key.update(file.suffix.encode() + hash_of(file))
    folder = cache / f"text-{key.hexdigest()[:24]}"
    if not (folder / "counts.json").is_file():
        if hears:
            hears(f"Tokenising {len(files)} text file(s)")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder, shared=True) as partial:
            _write(files, tokenizer, Duplicates(exact=deduplicate, near=near), partial)
    counts = Counts(**json.loads((folder / "counts.json").read_text(encoding="utf-8")))
    ids = np.memmap(folder / "ids.bin", dtype=np.uint32, mode="r")
    return Corpus(ids, np.load(folder / "starts.npy"), counts, folder.name)


def hash_of(file: Path) -> bytes:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _write(files: Sequence[Path], tokenizer: Tokenizer, seen: Duplicates, folder: Path) -> None:
    vocabulary = tokenizer.vocabulary
    before = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else []
    after = [vocabulary.eos] if vocabulary.eos is not None else []
    starts: list[int] = []
    tokens = characters = 0
    with (folder / "ids.bin").open("wb") as out:
        for document in documents(files):
            text = seen.new_parts(document.text).strip()
            if not text:
                continue
            ids = [*before, *(token for part in _pieces(text) for token in tokenizer.tokenize(part)), *after]
            np.array(ids, dtype=np.uint32).tofile(out)
            starts.append(tokens)
            tokens += len(ids)
            characters += len(text)
    if not tokens:
        raise BadInput(f"There is no text in {', '.join(map(str, files))}.", "Give files with text in them.")
    np.save(folder / "starts.npy", np.array(starts, dtype=np.int64))
    counts = Counts(len(files), characters, tokens, len(starts), seen.removed)
    (folder / "counts.json").write_text(json.dumps(asdict(counts)), encoding="utf-8")


def _pieces(text: str) -> list[str]:
    """Stretches of whole lines: tokenizers are slow on megabytes at once. A line end stays with its line."""
    if len(text) <= _PIECE:
        return [text]
    found: list[str] = []
    at = 0
    while at < len(text):
        end = text.rfind("\n", at, at + _PIECE) + 1 if at + _PIECE < len(text) else len(text)
        end = end if end > at else at + _PIECE
        found.append(text[at:end])
        at = end
    return found


def counted(corpus: Corpus) -> dict[str, Any]:
    """The counts as a mapping, with characters per token."""
    return asdict(corpus.counts) | {"characters_per_token": corpus.counts.characters / corpus.counts.tokens}
