"""Which old tokens each new token stands for, and the proof that the old vocabulary is the new one's beginning."""

from __future__ import annotations

from pathlib import Path

from ..errors import BadInput
from ..weights.checkpoint import read_json
from .pieces import read_model


def replaced_tokens(old: Path, new: Path) -> dict[int, list[int]]:
    """New id → ids of the old tokenizer that its text is split into; both are folders with tokenizer files.

    Control tokens have no text and no ids. Raises `BadInput` where an old id has another meaning in the new one.
    """
    if (old / "tokenizer.model").is_file() and (new / "tokenizer.model").is_file():
        return _sentencepiece(old / "tokenizer.model", new / "tokenizer.model")
    if (old / "tokenizer.json").is_file() and (new / "tokenizer.json").is_file():
        return _byte_level(old / "tokenizer.json", new / "tokenizer.json")
    raise BadInput(
        f"{old} and {new} do not hold tokenizers of one kind.", "Both need tokenizer.model, or both tokenizer.json."
    )


def _sentencepiece(old: Path, new: Path) -> dict[int, list[int]]:
    import sentencepiece

    before, after = read_model(old), read_model(new)
    _same_beginning([piece.piece for piece in before.pieces], [piece.piece for piece in after.pieces])
    # A piece stands inside a text: no space in front of it, none taken away.
    before.normalizer_spec.add_dummy_prefix = False
    before.normalizer_spec.remove_extra_whitespaces = False
    processor = sentencepiece.SentencePieceProcessor(model_proto=before.SerializeToString())
    normal = type(after.pieces[0]).NORMAL
    fresh = list(enumerate(after.pieces))[len(before.pieces) :]
    return {
        token: list(processor.encode(piece.piece.replace("▁", " "))) if piece.type == normal else []
        for token, piece in fresh
    }


def _byte_level(old: Path, new: Path) -> dict[int, list[int]]:
    before, after = read_json(old), read_json(new)
    olds, news = _by_id(before), _by_id(after)
    _same_beginning(
        [olds.get(token, "") for token in range(max(olds) + 1)], [news.get(i, "") for i in range(len(news))]
    )
    known = before["model"]["vocab"]
    merged = {"".join(pair.split(" ") if isinstance(pair, str) else pair): pair for pair in after["model"]["merges"]}

    def split(text: str) -> list[int]:
        if text in known:
            return [known[text]]
        pair = merged[text]
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        return split(left) + split(right)

    return {token: split(text) for token, text in news.items() if token not in olds and text in merged}


def _by_id(table: dict[str, object]) -> dict[int, str]:
    model, added = table["model"], table.get("added_tokens", [])
    found = {token: piece for piece, token in model["vocab"].items()}  # type: ignore[index]
    return found | {entry["id"]: entry["content"] for entry in added}  # type: ignore[attr-defined]


def _same_beginning(old: list[str], new: list[str]) -> None:
    for token, (before, after) in enumerate(zip(old, new, strict=False)):
        if before != after:
            raise BadInput(f"Token {token} is {before!r} in the old tokenizer and {after!r} in the new one.", _EXTEND)
    if len(new) < len(old):
        raise BadInput(f"The new tokenizer has {len(new):,} tokens and the old one {len(old):,}.", _EXTEND)


_EXTEND = "Extend the model's own tokenizer with `hanpaca vocab merge` or `hanpaca vocab extend`."
