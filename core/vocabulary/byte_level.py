"""Byte-level BPE (`tokenizer.json`): new merges learned where the model's own leave off, appended behind them.

Merges, not added tokens: overlapping added tokens are split differently by Hugging Face and llama.cpp. The corpus is
first split by the model's tokenizer; each of its tokens then counts as one letter for the trainer, so that every
merge found continues the model's. Only runs of Chinese text are learned from: other text keeps its ids. Knows no
weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import BadInput, BadModelFile, EngineUnavailable
from ..weights.checkpoint import read_json
from ..weights.files import new_file, not_among, only_replaces

CHINESE = re.compile(r"[　-〿㐀-䶿一-鿿豈-﫿！-～]+")
"""Chinese characters, their punctuation, and full-width forms."""
_PLANE = 0xF0000
"""Private-use code points (planes 15 and 16) stand for the model's tokens: 131,068 of them."""
_LETTERS = 131_000


def extend_merges(base: Path, texts: Iterable[str], out: Path, count: int) -> int:
    """Write the tokenizer.json `base` with up to `count` more tokens learned from `texts`; returns how many.

    Every id and every merge of `base` stays. Raises `BadInput` where the texts hold no pair to merge, and where `out`
    is there and is no tokenizer.json.
    """
    not_among(out, base)
    _only_replaces_a_tokenizer(out)
    if not base.is_file():
        raise BadInput(f"There is no file {base}.", "Give the model's own tokenizer.json.")
    table = read_json(base)
    parts = table.get("model")
    if (
        not isinstance(parts, dict)
        or not parts.get("vocab")
        or parts.get("type") != "BPE"
        or parts.get("byte_fallback")
        or not {"vocab", "merges"} <= parts.keys()
    ):
        raise BadModelFile(f"{base} is no byte-level BPE tokenizer.", "For sentencepiece models use `vocab merge`.")
    if count < 1:
        raise BadInput("At least one token must be asked for.", "Give the number of new tokens.")
    added = _append(table, _learn(base, table, texts, count), count)
    if not added:
        raise BadInput("The texts hold no Chinese that occurs twice.", "Give more text.")
    with new_file(out) as partial:
        partial.write_text(json.dumps(table, ensure_ascii=False, indent=1), encoding="utf-8")
    return added


def _only_replaces_a_tokenizer(out: Path) -> None:
    if not out.is_file() or not out.stat().st_size:
        return
    only_replaces(out, b"{", kind := "tokenizer.json")
    try:
        known = "model" in read_json(out)
    except BadModelFile:
        known = False
    if not known:
        raise BadInput(f"{out} exists and is no {kind}.", "Name another file to write, or remove it first.")


def _learn(base: Path, table: dict[str, Any], texts: Iterable[str], count: int) -> list[tuple[str, str]]:
    """Pairs to merge, in the order found, as the byte-level texts of their two sides."""
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError as error:
        raise EngineUnavailable(
            "Byte-level tokenizers need the package tokenizers.", 'Install it with: pip install "hanpaca[transformers]"'
        ) from error
    known = {token: piece for piece, token in table["model"]["vocab"].items()}
    if max(known) >= _LETTERS:
        raise BadModelFile(f"{base} has more than {_LETTERS:,} tokens.", "Only smaller vocabularies can be extended.")
    fast = Tokenizer.from_file(str(base))

    def words() -> Iterator[str]:
        for text in texts:
            for run in CHINESE.findall(text):
                ids = fast.encode(run, add_special_tokens=False).ids
                yield "".join(chr(_PLANE + token) for token in ids)

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # The trainer counts its letters too. At most one letter per known token; the surplus is cut off by `_append`.
    trainer = trainers.BpeTrainer(vocab_size=len(known) + 2 * count, min_frequency=2, show_progress=False)
    learner.train_from_iterator(words(), trainer)
    found = json.loads(learner.to_str())["model"]["merges"]
    return [(_spell(left, known), _spell(right, known)) for left, right in found]


def _spell(letters: str, known: dict[int, str]) -> str:
    return "".join(known[ord(letter) - _PLANE] for letter in letters)


def _append(table: dict[str, Any], pairs: Iterable[tuple[str, str]], count: int) -> int:
    model = table["model"]
    vocabulary, merges = model["vocab"], model["merges"]
    as_text = bool(merges) and isinstance(merges[0], str)
    next_id = max([*vocabulary.values(), *(entry["id"] for entry in table.get("added_tokens", []))]) + 1
    added, seen = 0, {tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges}
    for left, right in pairs:
        if (left, right) in seen:
            continue
        if left + right not in vocabulary:
            if added == count:
                break
            vocabulary[left + right] = next_id + added
            added += 1
        merges.append(f"{left} {right}" if as_text else [left, right])
    return added
