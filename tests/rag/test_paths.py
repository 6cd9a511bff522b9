"""Paths of any system and in any script, as users write them and as a library keeps them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hanpaca.core.errors import BadInput
from hanpaca.rag import Library, answer
from hanpaca.rag.evaluation import evaluate
from hanpaca.rag.paths import ends_with, is_below

WINDOWS = "C:\\用户\\资料\\合同 2026.txt"
TEXT = "本合同自签字之日起生效，有效期三年。"


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "库") as opened:
        opened.add_text(TEXT, WINDOWS, embed=False)
        opened.add_text("合同之外的另一份文件。", "D:\\别处\\合同.txt", embed=False)
        yield opened


@pytest.mark.parametrize("name", [WINDOWS, "合同 2026.txt", "资料\\合同 2026.txt", "用户\\资料\\合同 2026.txt"])
def test_windows_paths_are_found_by_their_ends(library: Library, name: str) -> None:
    assert library.resolve(name) == WINDOWS
    assert library.passages(name)[0].text == TEXT


def test_filters_take_windows_paths(library: Library) -> None:
    for filters in (
        {"folders": "C:\\用户\\资料"},
        {"folders": "C:\\用户\\"},
        {"files": "合同 2026.txt"},
        {"files": "*2026*"},
    ):
        assert {hit.file for hit in library.search("合同", filters=filters)} == {WINDOWS}, filters
    with pytest.raises(BadInput, match="passes the filter"):
        library.search("合同", filters={"folders": "C:\\用户\\资"})


def test_answers_and_evaluation_name_windows_paths(library: Library) -> None:
    found = answer(library, None, "合同的有效期是多久？", abstain=False)
    assert found.citations[0].file == WINDOWS
    questions = [{"question": "合同的有效期是多久？", "file": "合同 2026.txt", "answer": "三年"}]
    assert evaluate(library, questions).recall[1] == 1.0
    assert library.delete("合同 2026.txt") == 1


@pytest.mark.parametrize(
    "name", ["简体 与 空格.txt", "繁體檔名.md", "emoji🦙.txt", "引号'\"和%20.txt", "全角（括号）【】.txt", "a[1]*.txt"]
)
def test_file_names_in_any_script(tmp_path: Path, name: str) -> None:
    (tmp_path / "文档").mkdir()
    (tmp_path / "文档" / name).write_text(TEXT, encoding="utf-8")
    with Library.open(tmp_path / "library") as library:
        library.sync([tmp_path / "文档"], embed=False)
        assert library.resolve(name) == str(tmp_path / "文档" / name)
        assert library.search("有效期")[0].file.endswith(name)
        (tmp_path / "文档" / name).rename(tmp_path / "文档" / f"改名后 {name}")
        assert len(library.sync([tmp_path / "文档"], embed=False).renamed) == 1
        assert library.delete(f"改名后 {name}") == 1


def test_a_name_that_is_no_text_costs_one_line(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "good.txt").write_text(TEXT, encoding="utf-8")
    with open(bytes(tmp_path / "docs") + b"/\xff\xfe.txt", "wb") as file:  # noqa: PTH123 - pathlib takes no bytes
        file.write(TEXT.encode())
    with Library.open(tmp_path / "library") as library:
        report = library.sync([tmp_path / "docs"], embed=False)
        assert len(library.sync([tmp_path / "docs"], embed=False).unchanged) == 1
    assert len(report.added) == 1 and "name is not valid text" in report.failed[0][1]


def test_a_name_is_not_the_end_of_another() -> None:
    assert not ends_with("C:\\合同.txt", "同.txt")
    assert not ends_with("/a/b.txt", "a.b.txt")
    assert is_below("/a/b/c", "/a/b") and not is_below("/a/bc", "/a/b")
