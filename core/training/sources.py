"""Where items come from: blocks of corpora, mixed by share, and tokenised conversations. Knows no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..weights.files import new_folder
from .conversations import ANSWER, PROMPT, Cut, Example
from .corpora import Corpus
from .items import Item, shuffled


@dataclass(frozen=True)
class Mixed:
    """A corpus of which a share of all tokens is taken."""

    corpus: Corpus
    share: float


class Blocks:
    """Blocks of a corpus, each once in an epoch, among them those of others by their share.

    A mixed corpus is gone through in an order of its own: what one epoch leaves, the next takes; a small one repeats.
    """

    def __init__(self, main: Corpus, mixed: Sequence[Mixed], length: int) -> None:
        if sum(part.share for part in mixed) >= 1:
            raise BadInput("The shares of --mix leave nothing for the data.", "Together they are less than 1.")
        self._corpora = [main, *(part.corpus for part in mixed)]
        self._length = length
        self._counts = [corpus.blocks(length) for corpus in self._corpora]
        rest = 1 - sum(part.share for part in mixed)
        self._taken = [self._counts[0]]
        for part, count in zip(mixed, self._counts[1:], strict=True):
            tokens = len(main.ids) * part.share / rest
            self._taken.append(max(1, round(tokens * count / len(part.corpus.ids))))
        self._first = np.cumsum([0, *self._counts])
        self.identity = "+".join(corpus.identity for corpus in self._corpora)
        self.refused: tuple[str, ...] = ()
        self._lengths = np.concatenate(
            [_lengths(c, n, length) for c, n in zip(self._corpora, self._counts, strict=True)]
        )

    def __len__(self) -> int:
        return sum(self._taken)

    def item(self, number: int) -> Item:
        """A block, by its number among all blocks of all corpora."""
        corpus = int(np.searchsorted(self._first, number, side="right")) - 1
        return self._corpora[corpus].block(int(number - self._first[corpus]), self._length)

    def epoch(self, number: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `Source.epoch`."""
        parts = []
        for which, (count, taken) in enumerate(zip(self._counts, self._taken, strict=True)):
            wanted = np.arange(number * taken, (number + 1) * taken)
            passes = {p: shuffled(count, p, seed + 1000 * which) for p in set((wanted // count).tolist())}
            parts.append(np.array([passes[at // count][at % count] for at in wanted.tolist()]) + self._first[which])
        order = np.concatenate(parts)[shuffled(len(self), number, seed + 1)]
        return order, self._lengths[order]


def _lengths(corpus: Corpus, count: int, length: int) -> NDArray[np.int64]:
    lengths = np.full(count, length, dtype=np.int64)
    lengths[-1] = len(corpus.ids) - (count - 1) * length
    return lengths


@dataclass(frozen=True, eq=False)
class Examples:
    """Tokenised conversations, in three arrays."""

    ids: NDArray[np.uint32]
    marks: NDArray[np.uint8]
    starts: NDArray[np.int64]
    """Where examples begin, and the end of the last."""
    cut: Cut
    prompt_weight: float = 0.0
    refused: tuple[str, ...] = ()
    """Rows that were left out: place and reason."""
    identity: str = ""
    """Changes when the data do."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def item(self, number: int) -> Item:
        """An example with its weights."""
        first, end = int(self.starts[number]), int(self.starts[number + 1])
        marks = self.marks[first:end]
        table = np.zeros(3, dtype=np.float32)
        table[PROMPT], table[ANSWER] = self.prompt_weight, 1
        return Item(np.asarray(self.ids[first:end]), table[marks], (end - first,))

    def example(self, number: int) -> Example:
        """An example with its marks."""
        first, end = int(self.starts[number]), int(self.starts[number + 1])
        return Example(self.ids[first:end], self.marks[first:end])

    def epoch(self, number: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `Source.epoch`."""
        order = shuffled(len(self), number, seed)
        return order, np.diff(self.starts)[order]

    @property
    def answer_tokens(self) -> int:
        """Tokens that carry loss."""
        return int((self.marks == ANSWER).sum())


def cached_examples(key: Sequence[Any], cache: Path, make: Any, prompt_weight: float = 0.0) -> Examples:
    """The examples that `make` gives, an iterable, the `Cut` it counts in, and the rows that were left out; from the
    cache where they lie there.

    `key`: everything that decides them.
    """
    name = hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()[:24]
    folder = cache / f"examples-{name}"
    if not (folder / "cut.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder, shared=True) as partial:
            examples, cut, refused = make()
            _write(examples, partial)
            told = {"cut": vars(cut), "refused": refused}
            (partial / "cut.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
    told = json.loads((folder / "cut.json").read_text(encoding="utf-8"))
    cut, refused = Cut(**told["cut"]), tuple(told["refused"])
    ids, marks, starts = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "marks", "starts"))
    return Examples(ids, marks, np.asarray(starts), cut, prompt_weight, refused, name)


def _write(examples: Iterable[Example], folder: Path) -> None:
    kept = list(examples)
    if not kept:
        raise BadInput("No example fits.", "Give a larger --length.")
    np.save(folder / "ids.npy", np.concatenate([example.ids for example in kept]))
    np.save(folder / "marks.npy", np.concatenate([example.marks for example in kept]))
    np.save(folder / "starts.npy", np.cumsum([0, *(len(example.ids) for example in kept)]))
