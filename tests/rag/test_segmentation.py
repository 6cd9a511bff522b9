"""Longer Chinese words in a question: found as a whole in the index of pairs, in libraries that ask for it."""

from pathlib import Path

import pytest

from hanpaca.core.errors import BadInput, EngineUnavailable
from hanpaca.rag import Library, segmentation
from hanpaca.rag.keywords import weigh

TEXTS = {
    "红楼梦": "《红楼梦》是清代小说，作者是曹雪芹。",
    "楼梦": "他住在红楼，楼里的人都做梦；楼梦是一家旅店。",
    "计算机": "計算機科學研究演算法。",
}


@pytest.fixture
def jieba() -> None:
    pytest.importorskip("jieba")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Library.open(tmp_path) as library:
        for name, text in TEXTS.items():
            library.add_text(text, name, embed=False)
    return tmp_path


@pytest.mark.usefixtures("jieba")
def test_words_of_a_question() -> None:
    assert segmentation.long_words("《红楼梦》的作者曹雪芹是谁？") == ["红楼梦", "曹雪芹"]
    assert segmentation.long_words("計算機") == ["计算机"], "words are folded as texts are"
    assert segmentation.long_words("What is Linux?") == []


@pytest.mark.usefixtures("jieba")
def test_a_word_is_a_term_of_its_own(folder: Path) -> None:
    with Library.open(folder, segmenter="jieba") as library:
        with library.store.read() as reading:
            question = weigh(reading, "红楼梦", 3, ["红楼梦"])
        assert list(question.weights) == ["红楼", "楼梦", "红楼梦"]
        assert question.weights["红楼梦"] > question.weights["楼梦"], "one passage has the word, two have the pairs"
        hit = library.search("红楼梦", k=1, mode="keywords")[0]
        assert (hit.file, hit.explain["terms"]) == ("红楼梦", ["红楼", "楼梦", "红楼梦"])
        assert library.search("计算机", k=1, mode="keywords")[0].explain["terms"] == ["计算", "算机", "计算机"]


@pytest.mark.usefixtures("jieba")
def test_the_library_remembers_it(folder: Path) -> None:
    with Library.open(folder, segmenter="jieba") as library:
        library.add_text("又一份。", "新", embed=False)
    with Library.open(folder) as library:
        assert library.search("红楼梦", k=1, mode="keywords")[0].explain["terms"][-1] == "红楼梦"
    with Library.open(folder, segmenter="") as library:
        library.add_text("再一份。", "新", embed=False)
    with Library.open(folder) as library:
        assert library.search("红楼梦", k=1, mode="keywords")[0].explain["terms"] == ["红楼", "楼梦"]


def test_what_is_no_segmenter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="Valid: jieba"):
        Library.open(folder, segmenter="magic")
    monkeypatch.setattr(segmentation, "find_spec", lambda name: None)
    with pytest.raises(EngineUnavailable, match="jieba"):
        Library.open(folder, segmenter="jieba")
