"""One-file backups, and summaries of whole documents."""

import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from hanpaca.core.errors import BadInput
from hanpaca.rag import Library
from hanpaca.rag.backup import backup, restore
from hanpaca.rag.removal import remove_library
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


KILLED = """
import os, sys, zipfile
from hanpaca.rag import Library
from hanpaca.rag.backup import backup
zipfile.ZipFile.write = lambda *_: os._exit(9)
backup(Library.open(sys.argv[1]), sys.argv[2])
"""


def test_the_next_backup_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    place = tmp_path / "backups"
    with Library.open(tmp_path / "one") as library:
        library.add_text(TEXT, "茶", embed=False)
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "one", place / "b.zip"], check=False)
    assert killed.returncode == 9
    [left] = place.iterdir()
    assert (left / "library.sqlite3").is_file()
    with Library.open(tmp_path / "one") as library:
        backup(library, place / "other.zip")
        assert left.is_dir()  # so young, it may be another process's that has no lock yet
        os.utime(left, (0, 0))
        backup(library, place / "other.zip")
    assert [path.name for path in place.iterdir()] == ["other.zip"]


def test_a_backup_of_another_process_that_is_under_way_stays(tmp_path: Path) -> None:
    import filelock

    busy = tmp_path / ".hanpaca-backup-busy"
    busy.mkdir()
    with Library.open(tmp_path / "one") as library, filelock.FileLock(busy / "lock"):
        os.utime(busy, (0, 0))
        backup(library, tmp_path / "b.zip")
        assert busy.is_dir()


def test_a_link_that_leads_to_itself_gives_way(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with Library.open(tmp_path / "one") as library:
        backup(library, tmp_path / "loop")
    assert zipfile.is_zipfile(tmp_path / "loop")


def test_a_library_is_deleted_with_what_a_killed_restore_left(tmp_path: Path) -> None:
    Library.open(tmp_path / "one").close()
    (tmp_path / "one" / ".hanpaca-backup-x").mkdir()
    (tmp_path / "one" / ".hanpaca-backup-x" / "library.sqlite3").write_bytes(b"secret")
    remove_library(tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_a_link_to_a_backup_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "latest.zip").symlink_to("kept/real.zip")
    with Library.open(tmp_path / "one") as library:
        for _ in range(2):
            backup(library, tmp_path / "latest.zip")
            assert (tmp_path / "latest.zip").is_symlink()
            assert zipfile.is_zipfile(tmp_path / "kept" / "real.zip")
            (tmp_path / "kept" / "real.zip").replace(tmp_path / "kept" / "older.zip")


def test_of_two_restores_into_one_folder_one_makes_a_whole_library(tmp_path: Path) -> None:
    with Library.open(tmp_path / "one") as library:
        library.add_text(TEXT, "茶", embed=False)
        backup(library, tmp_path / "b.zip")
    told: list[str] = []

    def try_it() -> None:
        try:
            restore(tmp_path / "b.zip", tmp_path / "two")
        except BadInput as error:
            told.append(str(error))

    threads = [threading.Thread(target=try_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("already" in text for text in told)
    with Library.open(tmp_path / "two", create=False) as library:
        assert library.stats().files == 1
    assert [path.name for path in (tmp_path / "two").glob(".hanpaca*")] == []
