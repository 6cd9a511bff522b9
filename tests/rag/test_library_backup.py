"""One-file backups, and summaries of whole documents."""

import zipfile
from pathlib import Path

import pytest

from hanpaca.core.errors import BadInput
from hanpaca.rag import Library
from hanpaca.rag.backup import backup, restore
from hanpaca.rag.summary import summarize

TEXT = "茶树原产于中国西南部。\n\n茶叶按发酵程度分为绿茶、红茶和乌龙茶。\n\n泡茶的水温因茶叶而异，绿茶宜用八十度的水。"


def test_backup_and_restore(tmp_path: Path) -> None:
    with Library.open(tmp_path / "one") as library:
        library.add_text(TEXT, "茶")
        file = backup(library, tmp_path / "茶.zip")
        before = library.search("绿茶用多少度的水？")
    restore(file, tmp_path / "two")
    with Library.open(tmp_path / "two", create=False) as library:
        after = library.search("绿茶用多少度的水？")
        assert [(hit.file, hit.text, hit.start) for hit in after] == [(hit.file, hit.text, hit.start) for hit in before]
    with pytest.raises(BadInput, match="already"):
        restore(file, tmp_path / "two")


@pytest.mark.parametrize("damage", ["not a zip", "other zip", "cut"])
def test_what_is_no_backup_is_refused(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "b.zip"
    with Library.open(tmp_path / "one") as library:
        library.add_text(TEXT, "茶", embed=False)
        backup(library, file)
    if damage == "not a zip":
        file.write_bytes(b"nothing")
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x", "y")
    with pytest.raises(BadInput, match="not a whole backup"):
        restore(file, tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_failed_restore_leaves_only_folders_that_were_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "b.zip").write_bytes(b"nothing")
    for folder in (tmp_path / "there", tmp_path / "new" / "newer"):
        with pytest.raises(BadInput, match="not a whole backup"):
            restore(tmp_path / "b.zip", folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.zip", "there"]


@pytest.mark.parametrize("name", ["library.sqlite3", "new.zip", "new/b.zip", "../link/b.zip", "../one/b.zip"])
def test_a_backup_is_never_written_into_its_library(tmp_path: Path, name: str) -> None:
    with Library.open(tmp_path / "one") as library:
        library.add_text(TEXT, "茶", embed=False)
        (tmp_path / "link").symlink_to(tmp_path / "one")
        before = sorted((tmp_path / "one").iterdir())
        with pytest.raises(BadInput, match="own folder"):
            backup(library, tmp_path / "one" / name)
        assert sorted((tmp_path / "one").iterdir()) == before
    with Library.open(tmp_path / "one", create=False) as library:
        assert library.stats().files == 1


def test_a_backup_replaces_only_an_older_backup(tmp_path: Path) -> None:
    other, zipped, older = tmp_path / "thesis.docx", tmp_path / "other.zip", tmp_path / "backup.zip"
    other.write_text("Years of work.")
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("format", "another-1")
    with Library.open(tmp_path / "one") as library:
        backup(library, older)
        small = older.stat().st_size
        library.add_text(TEXT, "茶", embed=False)
        backup(library, older)
        assert older.stat().st_size > small
        for file in (other, zipped):
            before = file.read_bytes()
            with pytest.raises(BadInput, match=r"no backup of a library.*another name"):
                backup(library, file)
            assert file.read_bytes() == before


def test_a_backup_wants_the_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with Library.open(tmp_path / "one") as library, pytest.raises(BadInput, match=r"d is a folder.*name of a file"):
        backup(library, tmp_path / "d")


def test_a_summary_without_a_model_quotes_the_document(tmp_path: Path) -> None:
    with Library.open(tmp_path) as library:
        library.add_text(TEXT, "茶", embed=False)
        found = summarize(library, None, "茶")
    assert found.mode == "extract" and found.citations
    for citation in found.citations:
        assert TEXT[citation.start : citation.end] == citation.quote


def test_a_summary_by_a_model_reads_all_parts_within_its_window(tmp_path: Path) -> None:
    from test_answering import Scripted

    model = Scripted("要点。", window=700)
    text = "\n\n".join(f"第{number}节。" + "这一节说了很多事情。" * 20 for number in range(12))
    with Library.open(tmp_path) as library:
        library.add_text(text, "长文", embed=False)
        found = summarize(library, model, "长文")
    assert found.text == "要点。" and len(model.batches) >= 2
    asked = "".join(messages[-1].content for messages in model.asked)
    assert all(f"第{number}节。" in asked for number in range(12))
