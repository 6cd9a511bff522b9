"""Files → sources of items, by the options of a run. Knows how the data modules fit together, and no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput
from .base import Base
from .conversations import Cut, Encoder, Example
from .corpora import Corpus, hash_of, open_corpus
from .options import FinetuneOptions, PreferenceOptions, PretrainOptions
from .preference import Pairs
from .rows import conversations, first_lines, preferences
from .sources import Blocks, Examples, Mixed, cached_examples

Hears = Callable[[str], None]
VERSION = 3
"""Of the examples in the cache."""


def text_source(options: PretrainOptions, base: Base, cache: Path, hears: Hears | None) -> Blocks:
    """The blocks of a pre-training run."""

    def corpus(paths: Sequence[str]) -> Corpus:
        found = open_corpus(
            [Path(path) for path in paths],
            base.tokenizer,
            base.tokenizer_hash,
            cache,
            deduplicate=options.deduplicate,
            near=options.near_duplicates,
            hears=hears,
        )
        if hears:
            c = found.counts
            hears(
                f"{', '.join(paths)}: {c.characters:,} characters, {c.tokens:,} tokens"
                + (f"; {c.duplicates:,} paragraphs left out that were there before" if c.duplicates else "")
            )
        return found

    return Blocks(corpus(options.data), [_mixed(text, corpus) for text in options.mix], options.length)


def _mixed(text: str, corpus: Callable[[Sequence[str]], Corpus]) -> Mixed:
    path, _, share = text.rpartition("=")
    try:
        found = float(share)
    except ValueError:
        found = 0.0
    if not path or not 0 < found < 1:
        raise BadInput(f"--mix {text!r} is no file with a share.", "Write it as english.txt=0.1.")
    return Mixed(corpus([path]), found)


def conversations_source(options: FinetuneOptions, base: Base, cache: Path, hears: Hears | None) -> Examples:
    """The examples of an instruction-tuning run."""
    files = instruction_files(options.data)
    template = base.template(options)
    encoder = Encoder(template, base.tokenizer, options.length)
    key: list[Any] = [VERSION, repr(template), base.tokenizer_hash, options.length, options.bad_rows]
    key += [f"{file} {hash_of(file).hex()}" for file in files]

    def make() -> tuple[Iterator[Example], Cut, list[str]]:
        if hears:
            hears(f"Tokenising {len(files)} file(s) of conversations")
        rows, refused = conversations(files, options.bad_rows)  # type: ignore[arg-type]
        made = (example for row in rows for example in encoder.examples(row.messages, str(row.place)))
        return made, encoder.cut, refused.lines()

    found = cached_examples(key, cache, make, options.prompt_weight)
    if hears:
        _tell(found.refused, hears)
        hears(f"{len(found):,} examples, {len(found.ids):,} tokens, {found.answer_tokens:,} of answers")
        _tell_cut(found.cut, hears)
    return found


def pairs_source(options: PreferenceOptions, base: Base, hears: Hears | None) -> Pairs:
    """The pairs of a run of preference optimisation."""
    rows, refused = preferences(instruction_files(options.data), options.bad_rows)  # type: ignore[arg-type]
    _tell(refused.lines(), hears)
    found = Pairs.of(rows, Encoder(base.template(options), base.tokenizer, options.length), tuple(refused.lines()))
    if hears:
        hears(f"{len(found):,} pairs of answers, {sum(len(item.ids) for item in found.items):,} tokens")
        if found.left_out:
            hears(f"{found.left_out:,} pairs are longer than --length and were left out")
    return found


def instruction_files(paths: Sequence[str]) -> list[Path]:
    """The .json and .jsonl files that `paths` name, folders searched to the bottom, in a fixed order."""
    found: list[Path] = []
    for text in paths:
        path = Path(text)
        if not path.exists():
            raise BadInput(f"{path} does not exist.", "Give .json or .jsonl files, or folders of them.")
        inside = (file for file in path.rglob("*") if file.suffix.lower() in (".json", ".jsonl"))
        found += sorted(inside) if path.is_dir() else [path]
    if not found:
        raise BadInput(f"No .json or .jsonl file in {', '.join(paths)}.", "Give files of conversations.")
    return found


def _tell(refused: Sequence[str], hears: Hears | None) -> None:
    if refused and hears:
        hears(f"{len(refused)} rows are left out:\n{first_lines(refused)}")


def _tell_cut(cut: Cut, hears: Hears) -> None:
    for count, what in (
        (cut.at_turns, "times a conversation was cut between turns"),
        (cut.answers, "answers are too long and lost their end"),
        (cut.left_out, "questions are longer than --length and were left out with their answers"),
    ):
        if count:
            hears(f"{count:,} {what}")
