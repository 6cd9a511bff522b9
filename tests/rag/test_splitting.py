"""Passages: exact offsets, nothing lost, the token limit kept, sections respected."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanpaca.rag.embedding import Embedder, load_embedder
from hanpaca.rag.readers import Document, Mark, is_readable, read
from hanpaca.rag.reading import ocr
from hanpaca.rag.splitting import TARGET, Passage, iter_passages, split


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder()


def assert_exact(document: Document, passages: list[Passage]) -> None:
    """Every passage is its span of the text, in order, and no character but white space lies outside."""
    reached = 0
    for passage in passages:
        assert document.text[passage.start : passage.end] == passage.text
        assert passage.text and passage.text == passage.text.strip()
        assert document.text[reached : passage.start].strip() == ""
        assert (passage.page, passage.line) == (document.page_at(passage.start), document.line_at(passage.start))
        assert passage.headings == document.headings_at(passage.start)
        reached = passage.end
    assert document.text[reached:].strip() == ""


WORDS = st.sampled_from(
    ["中文句子。", "word ", "Dr. ", "\n", "\n\n", "，", "\u3000", "é\u0301", "👩\u200d💻", "x" * 90, "长" * 130, " | "]
)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    text = "".join(draw(st.lists(WORDS, max_size=60)))
    starts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    kinds = [("heading", 1), ("heading", 3), ("page", 0), ("slide", 0), ("table", 0)]
    marks = []
    for start in starts:
        kind, level = draw(st.sampled_from(kinds))
        marks.append(Mark(start, kind, f"{kind} at {start}", level))
    return Document(text, tuple(marks))


COUNTERS: list[Callable[[str], int]] = [len, lambda text: len(text.encode()) + 2, lambda text: len(text) // 2 + 9]


@settings(max_examples=200)
@given(documents(), st.sampled_from(COUNTERS), st.integers(12, 600), st.integers(1, 500))
def test_offsets_are_exact(document: Document, count: Callable[[str], int], limit: int, target: int) -> None:
    passages = list(iter_passages(document, count, limit, target=target))
    assert_exact(document, passages)
    for passage in passages:
        assert count(passage.text) <= limit or len(passage.text) == 1
        assert len(passage.text) <= target


def test_every_real_file(data: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file in twenty of all the real ones, every format among them, in the embedder's own tokens."""
    monkeypatch.setattr(ocr, "is_available", lambda: False)  # a second per picture, tested with the readers
    files = sorted(path for path in (data / "docs").rglob("*") if is_readable(path))
    kinds = {path.suffix: path for path in files if path.stat().st_size < 1_000_000}
    for path in {*files[::20], *kinds.values()}:
        document = read(path)
        passages = split(document, embedder.count_tokens, embedder.max_tokens)
        assert_exact(document, passages)
        assert max(len(passage.text) for passage in passages) <= TARGET
        longest = max(passages, key=lambda passage: len(passage.text))
        assert embedder.count_tokens(longest.text) <= embedder.max_tokens


def test_passages_are_full(data: Path, embedder: Embedder) -> None:
    document = read(data / "docs/txt/西游记.txt")
    passages = split(document, embedder.count_tokens, embedder.max_tokens)
    lengths = sorted(len(passage.text) for passage in passages)
    assert 300 <= lengths[len(lengths) // 2] <= TARGET
    assert sum(length < 100 for length in lengths) < 0.05 * len(lengths)


def test_sections_do_not_mix() -> None:
    body = "这是一个有足够长度的段落，它说明了这一节的内容，并且超过了最短的长度限制，所以自成一段，不与下一节合并。"
    text = f"第一节\n{body}\n第二节\n{body}\n"
    second = text.index("第二节")
    document = Document(text, (Mark(0, "heading", "第一节", 1), Mark(second, "heading", "第二节", 1)))
    passages = split(document, len, 512)
    assert [passage.headings for passage in passages] == [("第一节",), ("第二节",)]
    assert passages[1].start == second


def test_a_bare_title_joins_its_first_section() -> None:
    text = "# 手册\n\n## 安装\n\n用下面的命令安装软件包。"
    document = Document(text, (Mark(0, "heading", "手册", 1), Mark(6, "heading", "安装", 2)))
    assert [passage.text for passage in split(document, len, 512)] == [text]


def test_sentences_stay_whole() -> None:
    text = "这是一个普通的句子，长度适中，没有什么特别的地方。" * 60
    passages = split(Document(text), len, 512)
    assert all(passage.text.endswith("。") for passage in passages)


def test_long_sentences_are_cut_at_commas_or_spaces() -> None:
    chinese = split(Document("这一句话没有句号只有逗号，" * 100), len, 512)
    assert all(passage.text.endswith("，") for passage in chinese)
    english = split(Document("word " * 400), len, 512)
    assert {token for passage in english for token in passage.text.split()} == {"word"}


def test_no_cut_within_a_character() -> None:
    passages = split(Document("e\u0301" * 1000), len, 512)
    assert not any(passage.text.startswith("\u0301") for passage in passages)


def test_a_short_window_is_kept(embedder: Embedder, data: Path) -> None:
    """A model that sees 64 tokens gets passages of at most 64."""
    document = Document((data / "docs/txt/fortunes-zh-tang300.txt").read_text("utf-8")[:8000])
    passages = split(document, embedder.count_tokens, 64)
    assert_exact(document, passages)
    counts = [embedder.count_tokens(passage.text) for passage in passages]
    assert max(counts) <= 64 and sum(counts) / len(counts) > 30


def test_tokens_are_counted_about_once() -> None:
    """Linear: what is counted altogether is a small multiple of the text, even under a narrow limit."""
    text = "羊驼生活在南美洲的高原上，毛很柔软。它们吃草。\n" * 4000
    for limit, most in ((10_000, 1.1), (60, 2.6)):
        counted = 0

        def count(passage: str) -> int:
            nonlocal counted
            counted += len(passage)
            return len(passage)

        split(Document(text), count, limit)
        assert counted < most * len(text)


@pytest.mark.parametrize("unit", ["字", "word ", "一句话。", "a\n", "# h\n", "，"])
def test_linear_time(unit: str) -> None:
    def seconds(length: int) -> float:
        document = Document(unit * (length // len(unit)))
        start = time.process_time()
        split(document, len, 512)
        return time.process_time() - start

    assert seconds(400_000) < 60 * max(seconds(20_000), 0.01)
