"""Plain text to train on: encodings, blocks, mixtures, duplicates, and how it is packed."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_runs import SENTENCES, write_base, write_text

from hanpaca.core.errors import BadInput
from hanpaca.core.training.base import Base, open_base
from hanpaca.core.training.batches import Batches
from hanpaca.core.training.corpora import Corpus, open_corpus
from hanpaca.core.training.duplicates import Duplicates
from hanpaca.core.training.items import pack
from hanpaca.core.training.sources import Blocks, Mixed
from hanpaca.core.weights.files import new_folder

torch = pytest.importorskip("torch")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = write_base(tmp_path_factory.mktemp("base") / "b")
    return open_base(str(folder), folder.parent)


def corpus(base: Base, cache: Path, *files: Path, **settings: Any) -> Corpus:
    return open_corpus(files, base.tokenizer, base.tokenizer_hash, cache, **settings)


def test_texts_in_any_encoding_give_the_same_tokens(base: Base, tmp_path: Path) -> None:
    text = "\n".join(SENTENCES)
    found = []
    for encoding in ("utf-8", "gb18030", "utf-16"):
        (tmp_path / encoding).mkdir()
        (tmp_path / encoding / "t.txt").write_text(text, encoding=encoding)
        found.append(corpus(base, tmp_path / "cache", tmp_path / encoding).ids.tolist())
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": text}), encoding="utf-8")
    found.append(corpus(base, tmp_path / "cache", tmp_path / "t.jsonl").ids.tolist())
    assert all(ids == found[0] for ids in found)
    assert found[0] == [1, *base.tokenizer.tokenize(text), 2]


def test_blocks_hold_every_token_once_and_keep_documents_apart(base: Base, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES), encoding="utf-8")
    made = corpus(base, tmp_path / "cache", file)
    items = [made.block(number, 64) for number in range(made.blocks(64))]
    assert np.concatenate([item.ids for item in items]).tolist() == made.ids.tolist()
    assert all(sum(item.segments) == len(item.ids) for item in items)
    edges = np.cumsum([length for item in items for length in item.segments])
    assert set(made.starts.tolist()) <= {0, *edges.tolist()}
    firsts = [at for item in items for at in np.cumsum([0, *item.segments[:-1]])]
    assert all(item.weights[at] == 0 for item in items for at in np.cumsum([0, *item.segments[:-1]]))
    assert sum(int(item.weights.sum()) for item in items) == len(made.ids) - len(firsts)


def test_a_corpus_is_tokenised_once_for_its_contents(base: Base, tmp_path: Path) -> None:
    heard: list[str] = []
    file = write_text(tmp_path / "t.txt")
    for _ in range(2):
        corpus(base, tmp_path / "cache", file, hears=heard.append)
    file.rename(tmp_path / "renamed.txt")
    corpus(base, tmp_path / "cache", tmp_path / "renamed.txt", hears=heard.append)
    assert len(heard) == 1
    write_text(tmp_path / "renamed.txt", 21)
    corpus(base, tmp_path / "cache", tmp_path / "renamed.txt", hears=heard.append)
    assert len(heard) == 2


def test_a_corpus_that_is_tokenised_by_two_at_once_is_there_for_both(base: Base, tmp_path: Path) -> None:
    file = write_text(tmp_path / "t.txt")
    found: list[Corpus] = []

    class Slow:
        """Another run begins and ends while this one tokenises."""

        vocabulary = base.tokenizer.vocabulary

        def tokenize(self, text: str) -> list[int]:
            other = Thread(target=lambda: found.append(corpus(base, tmp_path / "cache", file)))
            other.start()
            other.join()
            return base.tokenizer.tokenize(text)

    made = open_corpus([file], cast(Any, Slow()), base.tokenizer_hash, tmp_path / "cache")
    assert made.ids.tolist() == found[0].ids.tolist()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [made.identity]


def test_a_new_folder_that_somebody_else_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="exists already"), new_folder(tmp_path / "new") as partial:
        (partial / "mine").touch()
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "theirs"]


def test_mixed_corpora_come_by_their_share_and_go_on_in_the_next_epoch(base: Base, tmp_path: Path) -> None:
    main = corpus(base, tmp_path / "cache", write_text(tmp_path / "a.txt", 60))
    other = corpus(base, tmp_path / "cache", write_text(tmp_path / "b.txt", 30))
    source = Blocks(main, [Mixed(other, 0.2)], 32)
    orders = [source.epoch(number, 7)[0].tolist() for number in range(3)]
    count = main.blocks(32)
    for order in orders:
        assert sorted(n for n in order if n < count) == list(range(count))
        assert sum(n >= count for n in order) / len(order) == pytest.approx(0.2, abs=0.02)
    taken = [n for order in orders for n in order if n >= count]
    assert max(taken.count(n) for n in set(taken)) - min(taken.count(n) for n in set(taken)) <= 1
    assert orders[0] != orders[1]
    assert orders[1] == Blocks(main, [Mixed(other, 0.2)], 32).epoch(1, 7)[0].tolist()


def test_a_short_text_has_its_share_of_the_tokens_too(base: Base, tmp_path: Path) -> None:
    """It fills no block, and repeats the more often; batches hold as many of its copies as fit."""
    main = corpus(base, tmp_path / "cache", write_text(tmp_path / "a.txt", 80))
    (tmp_path / "b.txt").write_text(SENTENCES[0], encoding="utf-8")
    other = corpus(base, tmp_path / "cache", tmp_path / "b.txt")
    source = Blocks(main, [Mixed(other, 0.1)], 512)
    order, lengths = source.epoch(0, 7)
    assert lengths[order >= main.blocks(512)].sum() / lengths.sum() == pytest.approx(0.1, abs=0.005)
    batches = Batches(source, tokens=1024, epochs=1, seed=7)
    assert len(batches) <= lengths.sum() // 1024 + 2


def test_duplicates_are_left_out_exact_and_near() -> None:
    long = "".join(SENTENCES)
    nearly = long.replace("春", "秋").replace("village", "town")
    exact = Duplicates()
    assert exact.new_parts(f"{long}\n\n短\n\n{long}\n\n短") == f"{long}\n\n短\n\n短"
    assert exact.new_parts(nearly) == nearly
    assert exact.removed == 1
    near = Duplicates(near=0.7)
    assert near.new_parts(long) == long
    assert near.new_parts(nearly) == ""
    other = "".join(reversed(long))
    assert near.new_parts(other) == other


@given(st.lists(st.integers(1, 100), max_size=1200), st.integers(50, 300))
@settings(max_examples=40, deadline=None)
def test_packing_loses_nothing_and_never_exceeds(lengths: list[int], capacity: int) -> None:
    groups = pack(lengths, capacity)
    assert sorted(position for group in groups for position in group) == list(range(len(lengths)))
    for group in groups:
        assert sum(lengths[position] for position in group) <= capacity or len(group) == 1


def test_packing_wastes_little() -> None:
    lengths = np.random.default_rng(0).integers(20, 500, 3000).tolist()
    groups = pack(lengths, 2048)
    assert sum(lengths) / (len(groups) * 2048) > 0.99
