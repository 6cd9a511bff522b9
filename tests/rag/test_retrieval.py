"""What search finds: filters, neighbours, near-duplicates, other languages, explanations, terms."""

import datetime
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanpaca.core.errors import BadInput
from hanpaca.rag import Filters, Hit, Library, answer, keywords
from hanpaca.rag.hits import filled, passages
from hanpaca.rag.names import library_folder, library_names
from hanpaca.rag.pool import Pool
from hanpaca.rag.sentences import sentences
from hanpaca.rag.splitting import TARGET

SENTENCES = [
    f"第{number}章讲的是{thing}的来历和用处，说得十分详细。"
    for number, thing in enumerate("笔墨纸砚琴棋书画诗酒花茶", 1)
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    folder = tmp_path_factory.mktemp("资料")
    (folder / "中文").mkdir()
    (folder / "中文" / "长文.txt").write_text("\n\n".join(sentence * 12 for sentence in SENTENCES), encoding="utf-8")
    (folder / "中文" / "抄本.md").write_text("羊驼住在高原上，吃草，毛很软。", encoding="utf-8")
    (folder / "中文" / "原本.txt").write_text("羊驼住在高原上，吃草，毛很软！", encoding="utf-8")
    for number in range(8):
        (folder / f"animal{number}.md").write_text(
            f"Alpacas live on the plateau. Fact {number * 7919}.", encoding="utf-8"
        )
    os.utime(folder / "中文" / "长文.txt", (0, datetime.datetime(2020, 5, 1, 12).timestamp()))
    with Library.open(tmp_path_factory.mktemp("library")) as opened:
        opened.sync([folder])
        yield opened


def files(library: Library, query: str, **filters: object) -> set[str]:
    return {Path(hit.file).name for hit in library.search(query, k=20, filters=filters)}


def test_filters(library: Library) -> None:
    assert files(library, "羊驼", files="抄本.md") == {"抄本.md"}
    assert files(library, "羊驼", files=["animal*.md", "原本.txt"]) >= {"原本.txt", "animal0.md"}
    assert files(library, "羊驼", kinds=["text"]) == {"长文.txt", "原本.txt"}
    assert files(library, "羊驼", kinds="md") >= {"抄本.md", "animal0.md"}
    assert files(library, "来历", before="2020-05-02") == {"长文.txt"}
    assert files(library, "来历", after=datetime.date(2020, 5, 1), before=datetime.date(2020, 5, 2)) == {"长文.txt"}
    with pytest.raises(BadInput, match="files, folders, kinds, after, before"):
        library.search("羊驼", filters={"colour": "red"})
    alone: Any = "pdf"
    with pytest.raises(BadInput, match="passes the filter"):
        library.search("羊驼", filters=Filters(kinds=alone))
    with pytest.raises(BadInput, match="2026-01-31"):
        library.search("羊驼", filters={"after": "yesterday"})


def test_folder_filter(library: Library) -> None:
    folder = Path(next(info.path for info in library.files() if info.path.endswith("抄本.md"))).parent
    found = {Path(hit.file).name for hit in library.search("羊驼", k=20, filters={"folders": str(folder)}, merge=False)}
    assert found == {"抄本.md", "原本.txt", "长文.txt"}


def test_nearly_the_same_text_is_shown_once(library: Library) -> None:
    hits = [hit for hit in library.search("羊驼住在哪里？", k=5) if "羊驼" in hit.text]
    assert len(hits) == 1
    assert len(hits[0].explain["same_text"]) == 1
    assert len([hit for hit in library.search("羊驼住在哪里？", k=5, merge=False) if "羊驼" in hit.text]) == 2


def test_one_page_in_two_formats_is_shown_once(tmp_path: Path) -> None:
    page = "- 按下 “l”，限制 显示。\n- 按下 “m”，标记 软件包。\n- 退出 aptitude 程序。\n- 以 root 执行 “apt” 命令。"
    with Library.open(tmp_path) as own:
        own.add_text(page, "html", embed=False)
        own.add_text(page.replace("-", "•").replace(" “", "”").replace("” ", "”").replace(" ", ""), "pdf", embed=False)
        assert len(own.search("怎样标记软件包？")) == 1


def test_files_that_say_the_same_count_as_one_in_calibration(library: Library) -> None:
    """A book in two formats would else look as if the questions that it answers had no answers."""
    names = {number: Path(path).name for number, path in library.store.rows("SELECT id, path FROM files")}
    for text, saying in (
        ("羊驼 住在高原上", {"抄本.md", "原本.txt"}),
        ("说得十分详细", {"长文.txt"}),
        ("羊驼住在海里", set()),
    ):
        with library.store.read() as reading:
            pool = Pool(library, reading, text, "hybrid", 20, None)
        assert {names[number] for number in pool.parts_saying(text, lambda file, _: file)} == saying


def test_neighbours_are_one_run_of_the_document(library: Library) -> None:
    text = "\n\n".join(sentence * 12 for sentence in SENTENCES)
    narrow, wide = (library.search("棋的来历", k=1, neighbours=count)[0] for count in (0, 1))
    assert wide.start < narrow.start and wide.end > narrow.end
    assert text[wide.start : wide.end] == wide.text


def test_an_answer_across_two_passages_is_shown_whole(tmp_path: Path) -> None:
    before = "高原上的天气变化很快。" * 32 + "那里的人把羊驼叫做云的孩子，"
    after = "因为它们的毛又白又软。\n\n" + "羊驼每年春天剪一次毛，剪下的毛用来织布。" * 12
    text = before + after
    with Library.open(tmp_path) as own:
        own.add_text(text, "高原", embed=False)
        hits = own.search("羊驼每年什么时候剪毛？", k=5, merge=False)
        quoted = answer(own, None, "羊驼每年什么时候剪毛？", abstain=False).citations
        own_passages = {passage.passage_id: passage for passage in own.passages("高原")}
    assert all(text[hit.start : hit.end] == hit.text and len(hit.text) <= TARGET for hit in hits)
    assert all(hit.text.find(own_passages[hit.passage_id].text) >= 0 for hit in hits)
    assert not any("云的孩子" in part.text and "剪一次毛" in part.text for part in own_passages.values())
    assert any("云的孩子" in hit.text and "剪一次毛" in hit.text for hit in hits)
    assert len({(one.start, one.end) for one in quoted}) == len(quoted), "a sentence is quoted once"


def test_how_a_question_asks_is_not_searched_for(tmp_path: Path) -> None:
    """The particle that Chinese may leave out counts little on either side."""
    with Library.open(tmp_path) as own:
        own.add_text("如何查看天气，是很多人都会问的。", "asks", embed=False)
        own.add_text("dpkg -l | 列出已安装软件包的清单", "tells", embed=False)
        assert own.search("如何查看已安装的软件包清单？", mode="keywords")[0].file == "tells"
        found = own.find("如何查看已安装的软件包清单？").weights
    assert {"如何", "查看"}.isdisjoint(found) and "装软" in found


def test_seats_for_other_languages(library: Library) -> None:
    languages = [hit.language for hit in library.search("Where do alpacas live?", k=10, merge=False)]
    assert languages[:5] == ["en"] * 5
    assert "zh" in languages[5:]
    assert {hit.language for hit in library.search("Where do alpacas live?", k=8, merge=False, across=False)} >= {"en"}


def test_explanations(library: Library) -> None:
    explain = library.search("羊驼住在哪里？", k=1)[0].explain
    assert "羊驼" in explain["terms"]
    assert explain["keywords"] > 0 and 0.5 < explain["cosine"] <= 1 and explain["characters"] > 0


def whole_sentences_around(text: str, hit: Hit, most: int) -> tuple[int, int]:
    """What `filled` takes, with all of the text cut into sentences."""
    start, end = hit.start, hit.end
    for first, last in reversed(sentences(text)):
        if last <= hit.start:
            if end - first > most:
                break
            start = first
    for first, last in sentences(text):
        if first >= hit.end:
            if last - start > most:
                break
            end = last
    return start, end


def test_a_filled_hit_has_the_whole_sentences_around_it_that_fit(tmp_path: Path) -> None:
    chance = random.Random(1)
    said = [
        "雨。",
        "他走了很远的路，没有回头。",
        "“好！”",
        "It rained.",
        "Dr. Li came at 3.5 p.m. and left.",
        "\n" * 99,
    ]
    text = "".join(chance.choices([*said, "记" * 90 + "。", "长" * 390 + "，" + "长" * 60 + "。"], k=400))
    text += ("甲" * 99 + "。") * 2 + "\n" * 100 + "短句。" + "\n" * 10 + "乙" * 379 + "。"
    with Library.open(tmp_path) as library:
        library.add_text(text, "混", embed=False)
        every = passages(library.store, "混")
        cuts = [(hit, cut) for hit in every for cut in (0, 1, 90) if cut < len(hit.text)]
        short = [replace(hit, end=hit.end - cut, text=hit.text[: len(hit.text) - cut]) for hit, cut in cuts]
        found = [filled(library.store, hit, TARGET) for hit in short]
    wide = 0
    for hit, full in zip(short, found, strict=True):
        at = next(number for number, one in enumerate(every) if one.start == hit.start)
        around = text[every[max(0, at - 1)].start : every[min(len(every) - 1, at + 1)].end]
        offset = every[max(0, at - 1)].start
        moved = replace(hit, start=hit.start - offset, end=hit.end - offset)
        start, end = whole_sentences_around(around, moved, TARGET)
        assert (full.start, full.end) == (start + offset, end + offset) and full.text == text[full.start : full.end]
        wide += len(full.text) > len(hit.text)
    assert wide > 20


def test_frequencies_are_remembered_until_the_library_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keywords, "FREQUENT", 0)
    with Library.open(tmp_path) as library:
        library.add_text("羊驼吃草。", "一", embed=False)
        library.search("羊驼", mode="keywords")
        assert library.store.frequencies() == {"羊驼": 1}
        library.add_text("羊驼喝水。", "二", embed=False)
        assert library.store.frequencies() == {}
        library.search("羊驼", mode="keywords")
        assert library.store.frequencies() == {"羊驼": 2}


def test_what_common_terms_would_cost_is_bounded(monkeypatch: pytest.MonkeyPatch, library: Library) -> None:
    monkeypatch.setattr(keywords, "POSTINGS", 3)
    with library.store.read() as reading:
        question = keywords.weigh(reading, "Alpacas on the plateau, fact 7919", 1000)
    assert question.searched[0] == "7919" and len(question.searched) == keywords.LEAST_TERMS
    assert set(question.weights) > set(question.searched), "all of them count in the score"
    assert library.search("fact 7919", k=1, mode="keywords")[0].text.endswith("7919.")


@given(st.text(max_size=40))
def test_no_question_breaks_the_search(text: str) -> None:
    import contextlib

    with contextlib.suppress(BadInput):
        _LIBRARY[0].search(text, mode="keywords")


_LIBRARY: list[Library] = []


@pytest.fixture(autouse=True, scope="module")
def shared(library: Library) -> None:
    _LIBRARY[:] = [library]


def test_names_of_libraries(tmp_path: Path) -> None:
    names = ["法律/合同", "默认", "CON", "a:b", "..", "Überblick", "%41", "emoji🦙"]
    for name in names:
        folder = library_folder(name, tmp_path)
        assert folder.parent == tmp_path
        with Library.open(folder):
            pass
    assert library_names(tmp_path) == sorted(names)
    for bad in ("", "  ", "长" * 200, "\ud800"):
        with pytest.raises(BadInput):
            library_folder(bad, tmp_path)


def test_a_library_of_one_document_knows_what_it_does_not_answer(data: Path, tmp_path: Path) -> None:
    """Its pieces take the place of documents: questions about other laws are refused, those about this one are not."""
    with Library.open(tmp_path) as own:
        own.sync([data / "docs" / "md" / "laws" / "宪法" / "宪法.md"])
        inside = (
            "全国人民代表大会每届任期几年？",
            "国旗是什么样的？",
            "国务院由哪些人组成？",
            "民族自治地方包括哪些？",
        )
        outside = ("公司股东会每年召开几次？", "商标注册的有效期是多少年？", "离婚冷静期是多少天？", "羊驼住在哪里？")
        assert [own.find(question).answerable for question in (*inside, *outside)] == [True] * 4 + [False] * 4
