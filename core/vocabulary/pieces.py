"""sentencepiece vocabularies: training new pieces, and merging them into a model's own `tokenizer.model`.

The merge is that of the published recipe (Chinese-LLaMA-Alpaca, `merge_tokenizers.py`): pieces that the base lacks
follow it in their own order with score 0, which is above every base piece. There, pieces such as `tic` or `▁20` from a
Chinese model also changed how English is split; here they keep their ids but are marked unused. Knows no weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput, BadModelFile, EngineUnavailable, HanpacaError
from ..weights.files import new_file, not_among, only_replaces
from ..weights.vocabulary_files import CONTROL, NORMAL, UNUSED

EAST_ASIAN = re.compile("[\u2e80-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]")
"""Characters, and their punctuation, that no English text holds."""
PUBLISHED_SCORE = 0.0
MOST = 1_000_000
"""Pieces of a model that is trained."""


@dataclass(frozen=True)
class Merged:
    """What a merge gave: pieces of the base, pieces added (a `<pad>` included), and those that the base had."""

    base: int
    added: int
    known: int

    @property
    def size(self) -> int:
        return self.base + self.added


def train_pieces(texts: Iterable[str], out: Path, size: int, *, coverage: float = 0.9995, threads: int = 2) -> Path:
    """Train `size` BPE pieces on `texts` (lines) and write them as a sentencepiece model.

    Text is taken as it is (no Unicode normalisation, as in LLaMA), digits stand alone, and characters beyond
    `coverage` (a share of all) become bytes. Raises `BadInput` where the texts do not give so many pieces, and where
    `out` is there and is no sentencepiece model.
    """
    import sentencepiece

    if not 0 < coverage <= 1 or not 300 <= size <= MOST:
        raise BadInput(f"Coverage lies between 0 and 1, and a model has 300 to {MOST:,} pieces.", "Choose others.")
    _only_replaces_a_model(out)
    read = _Read(texts)
    with new_file(out) as partial, partial.open("wb") as file:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(read),
                model_writer=file,
                model_type="bpe",
                vocab_size=size,
                character_coverage=coverage,
                byte_fallback=True,
                split_digits=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                max_sentence_length=1 << 20,
                num_threads=threads,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            if read.failed:
                raise read.failed from error
            reason = str(error).strip().rpartition("] ")[2].strip(" .") or "they hold too little"
            raise BadInput(
                f"{size:,} pieces could not be trained: {reason if read.any else 'the texts are empty'}.",
                "Give another text, size or coverage.",
            ) from error
    return out


class _Read:
    """Texts, and what went wrong while they were read: sentencepiece keeps no more of it than a line of its own."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.any = False
        self.failed: HanpacaError | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self._texts:
                self.any = self.any or bool(text)
                yield text
        except HanpacaError as error:
            self.failed = error
            raise


def merge_pieces(
    base: Path, new: Path, out: Path, *, pad: bool = False, size: int | None = None, chinese_only: bool = False
) -> Merged:
    """Write `base` followed by the pieces of `new` that it lacks; every id of `base` keeps its piece.

    `pad` puts a control token `<pad>` first behind the base (as Chinese-LLaMA-2 has it, id 32,000). `size` is the
    wanted total: the first pieces of `new` that fit. `chinese_only` leaves out the pieces that would be unused.
    Raises `BadInput` where `new` cannot fill `size`.
    """
    not_among(out, base, new)
    _only_replaces_a_model(out)
    model, extra = read_model(base), read_model(new)
    have = {piece.piece for piece in model.pieces}
    before = len(model.pieces)
    if pad and "<pad>" not in have:
        _append(model, "<pad>", CONTROL)
    wanted = [p.piece for p in extra.pieces if p.type == NORMAL and (not chinese_only or EAST_ASIAN.search(p.piece))]
    fresh = [piece for piece in wanted if piece not in have]
    room = len(fresh) if size is None else size - len(model.pieces)
    if not 0 <= room <= len(fresh):
        raise BadInput(
            f"{size:,} pieces cannot be reached: {len(model.pieces):,} are there and {len(fresh):,} are new.",
            "Choose a size between the two, or train more pieces.",
        )
    # Below every base piece, an unused one is joined last and taken apart again: English keeps its ids.
    lowest = min(piece.score for piece in model.pieces) - 1
    for text in fresh[:room]:
        if EAST_ASIAN.search(text):
            _append(model, text, NORMAL)
        else:
            _append(model, text, UNUSED, lowest)
    model.trainer_spec.vocab_size = len(model.pieces)
    with new_file(out) as partial:
        partial.write_bytes(model.SerializeToString())
    return Merged(before, len(model.pieces) - before, len(wanted) - len(fresh))


def read_model(path: Path) -> Any:
    """A sentencepiece model as its protocol buffer. Raises `BadModelFile` for anything else."""
    try:
        from sentencepiece import sentencepiece_model_pb2 as tables
    except ImportError as error:
        raise EngineUnavailable(
            "Vocabularies need the packages sentencepiece and protobuf.",
            'Install them with: pip install "hanpaca[convert]"',
        ) from error
    if not path.is_file():
        raise BadInput(f"{path} does not exist.", "Give a sentencepiece model such as tokenizer.model.")
    model: Any = tables.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:
        raise BadModelFile(f"{path} is no sentencepiece model.", "Give a file such as tokenizer.model.") from error
    if not model.pieces:
        raise BadModelFile(f"{path} is no sentencepiece model: it has no pieces.", "Give one such as tokenizer.model.")
    return model


def _only_replaces_a_model(out: Path) -> None:
    kind = "sentencepiece model"
    only_replaces(out, b"\n", kind)  # the tag of a model's first piece
    if not out.is_file() or not out.stat().st_size:
        return
    try:
        read_model(out)
    except BadModelFile as error:
        raise BadInput(f"{out} exists and is no {kind}.", "Name another file to write, or remove it first.") from error


def _append(model: Any, text: str, kind: int, score: float = PUBLISHED_SCORE) -> None:
    piece = model.pieces.add()
    piece.piece, piece.score, piece.type = text, score, kind
