"""A library on disk: what sync does, what search finds, what is refused."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanpaca.core.errors import BadInput, LibraryBusy, LibraryMismatch
from hanpaca.rag import Library, finding

ALPACA = "羊驼是一种动物，生活在南美洲。它们的毛很柔软。\n羊驼的寿命约为十五到二十年。"
LLAMA = "The llama is a domesticated animal of South America.\n\nA llama can carry about thirty kilograms."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "资料"
    made.mkdir()
    (made / "羊驼.txt").write_text(ALPACA, encoding="utf-8")
    (made / "llama.md").write_text(f"# Llamas\n\n{LLAMA}", encoding="utf-8")
    return made


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "库") as opened:
        yield opened


def names(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


def test_sync_reads_and_search_finds(library: Library, folder: Path) -> None:
    report = library.sync([folder])
    assert sorted(names(report.added)) == ["llama.md", "羊驼.txt"]
    assert report.passages == report.embedded == 2
    hit = library.search("羊驼能活多久？")[0]
    assert Path(hit.file) == folder / "羊驼.txt"
    assert hit.text == ALPACA[hit.start : hit.end]
    assert hit.place == "line 1"
    assert library.search("How much can a llama carry?")[0].headings == ("Llamas",)


@pytest.mark.parametrize("mode", ["hybrid", "keywords", "vectors"])
def test_every_mode_finds(library: Library, folder: Path, mode: str) -> None:
    library.sync([folder])
    assert Path(library.search("羊驼的寿命", mode=mode)[0].file).name == "羊驼.txt"


def test_traditional_and_full_width_questions_find_simplified_text(library: Library, folder: Path) -> None:
    library.sync([folder], embed=False)
    assert Path(library.search("羊駝的壽命", mode="keywords")[0].file).name == "羊驼.txt"
    assert Path(library.search("ＬＬＡＭＡＳ", mode="keywords")[0].file).name == "llama.md"


def test_unchanged_files_are_not_embedded_again(library: Library, folder: Path) -> None:
    library.sync([folder])
    again = library.sync([folder])
    assert (len(again.unchanged), again.embedded, again.passages, again.added) == (2, 0, 0, [])


def test_a_touched_file_is_not_read_again(library: Library, folder: Path) -> None:
    library.sync([folder])
    os.utime(folder / "羊驼.txt", (1, 1))
    assert len(library.sync([folder]).unchanged) == 2


def test_change_rename_delete(library: Library, folder: Path) -> None:
    library.sync([folder])
    (folder / "羊驼.txt").write_text(ALPACA + "\n\n小羊驼叫做克里亚。", encoding="utf-8")
    (folder / "llama.md").rename(folder / "骆马.md")
    report = library.sync([folder])
    assert names(report.changed) == ["羊驼.txt"]
    assert [(Path(old).name, Path(new).name) for old, new in report.renamed] == [("llama.md", "骆马.md")]
    assert "克里亚" in library.search("小羊驼叫什么？")[0].text
    assert Path(library.search("骆马", mode="keywords")[0].file).name == "骆马.md"
    (folder / "骆马.md").unlink()
    assert names(library.sync([folder]).removed) == ["骆马.md"]
    assert names([info.path for info in library.files()]) == ["羊驼.txt"]


def test_only_changed_passages_are_embedded(library: Library, folder: Path) -> None:
    text = "".join(f"第{number}段说的是第{number}件事，说得很详细，一点也不马虎。\n" for number in range(100))
    (folder / "长.txt").write_text(text, encoding="utf-8")
    first = library.sync([folder])
    (folder / "长.txt").write_text(text + "最后又加了一句。\n", encoding="utf-8")
    second = library.sync([folder])
    assert first.embedded > 6
    assert second.embedded <= 2


def test_text_is_searchable_before_its_vectors(library: Library, folder: Path) -> None:
    library.sync([folder], embed=False)
    assert library.stats().embedded == 0
    assert Path(library.search("羊驼的寿命")[0].file).name == "羊驼.txt"
    assert library.embed_pending() == 2
    assert library.stats().embedded == 2


def test_files_that_cannot_be_read_cost_a_line_each(library: Library, folder: Path) -> None:
    (folder / "空.txt").write_bytes(b"")
    (folder / "坏.pdf").write_bytes(b"%PDF-1.4 broken")
    for _ in range(2):
        report = library.sync([folder])
        assert names([path for path, _ in report.failed]) == ["坏.pdf", "空.txt"]
        assert all(message for _, message in report.failed)
    assert library.stats().files == 2


def test_files_of_other_types_are_told(library: Library, folder: Path) -> None:
    (folder / "旧.doc").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / ".hidden.png").write_bytes(b"\x89PNG")
    report = library.sync([folder])
    assert names(report.skipped) == ["旧.doc"] and not report.failed
    assert names(library.sync([folder.parent]).skipped) == ["旧.doc"], "the library's own files are none of them"


def test_a_folder_that_cannot_be_looked_into_keeps_its_files(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "内部").mkdir()
    (folder / "内部" / "保密.txt").write_text("保密的话。", encoding="utf-8")
    library.sync([folder])
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("内部"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = library.sync([folder])
    assert [(Path(path).name, message) for path, message in report.failed] == [
        ("内部", "It cannot be read: Permission denied.")
    ]
    assert not report.removed and library.search("保密", k=1)[0].text == "保密的话。"


def test_a_file_that_goes_away_while_its_folder_is_listed(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = finding.is_readable

    def is_readable(path: Path) -> bool:
        found = real(path)
        if path.name == "羊驼.txt":
            path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(finding, "is_readable", is_readable)
    report = library.sync([folder])
    assert names(report.added) == [name for name in names(report.added) if name != "羊驼.txt"] and not report.failed


@pytest.mark.parametrize("missing", ["无此文件.txt", "无此文件夹"])
def test_a_missing_path_is_refused_and_nothing_is_lost(library: Library, folder: Path, missing: str) -> None:
    library.sync([folder])
    with pytest.raises(BadInput, match="no file or folder"):
        library.sync([folder / missing])
    assert library.stats().files == 2


def test_a_folder_with_nothing_readable_is_refused(library: Library, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="Nothing readable"):
        library.sync([tmp_path / "empty"])


def test_bad_questions_are_refused(library: Library, folder: Path) -> None:
    with pytest.raises(BadInput, match="is empty"):
        library.search("什么？")
    library.sync([folder], embed=False)
    with pytest.raises(BadInput, match="question is empty"):
        library.search("  ")
    with pytest.raises(BadInput, match="hybrid, keywords, vectors"):
        library.search("什么？", mode="magic")
    with pytest.raises(BadInput, match="100,000"):
        library.search("羊驼", k=10**20)
    with pytest.raises(BadInput, match="at least 1"):
        library.search("什么？", k=0)


def test_opening_without_creating(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no library"):
        Library.open(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_another_embedder_is_refused(library: Library, folder: Path) -> None:
    library.sync([folder])

    class Other:
        identity = "another model"
        dimension = 384
        max_tokens = 512

    with pytest.raises(LibraryMismatch, match="another model"):
        Library.open(library.folder, embedder=Other())  # type: ignore[arg-type]


def test_two_writers(library: Library, folder: Path) -> None:
    with Library.open(library.folder) as other, library.writing():
        import threading

        raised: list[BaseException] = []

        def write() -> None:
            try:
                other.sync([folder])
            except LibraryBusy as error:
                raised.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        assert raised


def test_add_text_replaces_the_one_of_the_same_name(library: Library) -> None:
    library.add_text("第一个说法：天是蓝的。", "笔记")
    library.add_text("第二个说法：天是灰的。", "笔记")
    assert [info.path for info in library.files()] == ["笔记"]
    assert library.search("天是什么颜色的？")[0].text == "第二个说法：天是灰的。"


def test_delete_takes_the_file_as_the_user_knows_it(library: Library, folder: Path) -> None:
    library.sync([folder])
    assert library.delete("羊驼.txt") == 1
    with pytest.raises(BadInput, match="no file"):
        library.delete("羊驼.txt")
    assert library.delete(folder / "llama.md") == 1
    assert library.stats().files == 0


def test_rebuild_vectors(library: Library, folder: Path) -> None:
    library.sync([folder])
    before = [hit.file for hit in library.search("羊驼能活多久？", mode="vectors")]
    assert library.rebuild_vectors() == 2
    assert [hit.file for hit in library.search("羊驼能活多久？", mode="vectors")] == before


def test_an_encoding_given_overrides_the_one_found(library: Library, folder: Path) -> None:
    (folder / "旧.txt").write_bytes("羊驼的毛叫做羊驼绒。".encode("gb18030"))
    library.sync([folder / "旧.txt"], embed=False)
    assert library.files()[0].encoding is not None
    found = library.sync([folder / "旧.txt"], embed=False, encoding="big5")
    assert found.changed or found.failed
    library.sync([folder / "旧.txt"], embed=False, encoding="gb18030")
    assert library.search("羊驼绒", mode="keywords")[0].text == "羊驼的毛叫做羊驼绒。"


def test_texts_and_paths_of_another_type_are_told_and_harm_nothing(library: Library, folder: Path) -> None:
    library.add_text("羊驼吃草。", "a")
    for text, name, why in (
        (None, "b", "is a str, not NoneType"),
        ("x", None, "is a str, not NoneType"),
        ("half \ud83d", "b", "half a character"),
        ("x", "half \ud83d", "half a character"),
    ):
        with pytest.raises(BadInput, match=why):
            library.add_text(text, name)  # type: ignore[arg-type]
    for paths, why in ((str(folder), "Several paths are wanted"), (folder, "Several paths"), ([], "There is no path")):
        with pytest.raises(BadInput, match=why):
            library.sync(paths)  # type: ignore[arg-type]
    assert [info.path for info in library.files()] == ["a"]
