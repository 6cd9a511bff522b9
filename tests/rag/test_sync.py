"""When a sync reads a file again: after a failure, a rename, under another encoding; what it refuses or mentions."""

import io
import os
import signal
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import docx
import PIL.Image
import pytest

from hanpaca.core.errors import BadInput
from hanpaca.rag import Library, SyncReport, failures, isolation, sync
from hanpaca.rag.isolation import ReaderProcess, ReaderStopped
from hanpaca.rag.readers import Document, read
from hanpaca.rag.reading import ocr

TEXT = "羊驼的毛叫做羊驼绒。"
BINARY = b"\x00\x01\x02" * 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "docs"
    made.mkdir()
    (made / "a.txt").write_text("这个文件总是好的。", encoding="utf-8")
    return made


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library") as opened:
        yield opened


def run(library: Library, *paths: Path, encoding: str | None = None) -> SyncReport:
    return library.sync(paths, embed=False, encoding=encoding)


def failing(library: Library) -> list[str]:
    return [Path(path).name for path, _ in library.stats().failures]


class Reads:
    """Stands for `read_isolated`: counts, and fails with the given error until that is taken away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
        self.count, self.error = 0, error
        monkeypatch.setattr(sync, "read_isolated", self)

    def __call__(self, path: Path, *, encoding: str | None = None) -> Document:
        self.count += 1
        if self.error is not None:
            raise self.error
        return Document(TEXT, kind="pdf")


@pytest.mark.parametrize("kind", [ReaderStopped, isolation.UnreadableDocument])
def test_only_what_is_wrong_with_the_file_itself_is_remembered(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BadInput]
) -> None:
    (folder / "b.pdf").write_bytes(b"%PDF")
    reads = Reads(monkeypatch, kind("It did not work.", "Wait."))
    for process in ("one", "one", "another"):  # a watch does not wait for a hanging reader at every change
        monkeypatch.setattr(failures, "_HERE", process)
        assert [message for _, message in run(library, folder).failed] == ["It did not work. Wait."]
        assert failing(library) == ["b.pdf"], "sources tells of it either way"
    assert reads.count == (2 if kind is ReaderStopped else 1)
    reads.error = None
    monkeypatch.setattr(failures, "_HERE", "a third")
    assert len(run(library, folder).added) == (1 if kind is ReaderStopped else 0)


@pytest.mark.parametrize("what", ["a crash", "a timeout"])
def test_the_end_of_the_reader_process_is_told_from_a_bad_file(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text", encoding="utf-8")
    with ReaderProcess(timeout=0.5 if what == "a timeout" else 30.0) as reader:
        reader.read(path)
        assert reader._child is not None
        process = reader._child._process
        process.send_signal(signal.SIGSTOP)
        if what == "a crash":
            threading.Timer(0.1, process.kill).start()
        with pytest.raises(ReaderStopped):
            reader.read(path)


def test_failures_are_tried_again_once_pictures_can_be_recognised(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "scan.pdf").write_bytes(b"%PDF")
    monkeypatch.setattr(ocr, "is_available", lambda: False)
    reads = Reads(monkeypatch, ocr.no_text("PDF"))
    run(library, folder)
    assert run(library, folder).failed and reads.count == 1
    monkeypatch.setattr(ocr, "is_available", lambda: True)
    reads.error = None
    assert len(run(library, folder).added) == 1


def test_unread_pictures_are_read_once_they_can_be_recognised(
    library: Library, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter, picture = docx.Document(), io.BytesIO()
    PIL.Image.new("RGB", (40, 40), "white").save(picture, "png")
    letter.add_picture(picture)
    letter.save(str(tmp_path / "scan.docx"))
    letter.add_paragraph("短")
    letter.save(str(folder / "b.docx"))
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        archive.writestr("a.txt", TEXT)
        archive.write(tmp_path / "scan.docx", "scan.docx")
    monkeypatch.setattr(sync, "read_isolated", read)
    monkeypatch.setattr(ocr, "is_available", lambda: False)
    assert [ocr.HINT in warning for _, warning in run(library, folder).warnings] == [True, True]
    assert len(run(library, folder).unchanged) == 3
    monkeypatch.setattr(ocr, "is_available", lambda: True)
    assert [Path(path).name for path in run(library, folder).changed] == ["b.docx", "c.zip"]
    assert len(run(library, folder).unchanged) == 3


def test_a_failure_under_one_encoding_says_nothing_of_another(library: Library, folder: Path) -> None:
    path = folder / "b.txt"
    path.write_bytes(TEXT.encode("gb18030"))
    assert run(library, path, encoding="ascii").failed and failing(library) == ["b.txt"]
    assert len(run(library, path).added) == 1 and not failing(library)


@pytest.mark.parametrize("how", ["written", "with its old time", "renamed"])
def test_a_failure_ends_with_its_cause(library: Library, folder: Path, how: str) -> None:
    path, old = folder / "b.txt", folder / "old.txt"
    path.write_text(TEXT, encoding="utf-8")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    if how == "renamed":
        path.rename(old)
        path.write_bytes(BINARY)
    run(library, folder)
    path.write_bytes(BINARY)
    assert len(run(library, folder).failed) == 1 and failing(library) == ["b.txt"]
    if how == "renamed":
        old.rename(path)
    else:
        path.write_text(TEXT, encoding="utf-8")
    if how == "with its old time":
        os.utime(path, (1_000_000_000, 1_000_000_000))
    report = run(library, folder)
    assert not report.failed and not failing(library)
    assert len(report.renamed) == (how == "renamed") and not report.added and not report.changed


def test_a_file_renamed_to_another_type_is_read_as_that(library: Library, folder: Path) -> None:
    path = folder / "page.txt"
    path.write_text(f"<html><body><p>{TEXT}</p></body></html>", encoding="utf-8")
    run(library, folder)
    path.rename(folder / "page.html")
    report = run(library, folder)
    assert (len(report.added), len(report.removed), report.renamed) == (1, 1, [])
    assert library.search("羊驼绒", mode="keywords")[0].text == TEXT
    (folder / "page.html").rename(folder / "page.HTM")
    assert len(run(library, folder).renamed) == 1, "the same reader"


def test_a_renamed_file_is_read_by_the_encoding_asked_for(library: Library, folder: Path) -> None:
    (folder / "b.txt").write_bytes(TEXT.encode("gb18030"))
    run(library, folder, encoding="cp1252")
    (folder / "b.txt").rename(folder / "c.txt")
    assert len(run(library, folder, encoding="gb18030").added) == 1
    assert library.search("羊驼绒", mode="keywords")[0].text == TEXT
    (folder / "c.txt").rename(folder / "d.txt")
    assert len(run(library, folder, encoding="GB18030").renamed) == 1


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("GB18030", TEXT.encode("gb18030")),
        ("Big5", "漢字".encode("big5")),
        ("Big5", "漢字碁".encode("cp950")),
        ("UTF-16", TEXT.encode("utf-16")),
        ("utf_8_sig", TEXT.encode("utf-8-sig")),
        ("ISO-8859-1", b"caf\xe9"),
    ],
)
def test_an_encoding_is_the_same_however_it_is_spelled(
    library: Library, folder: Path, encoding: str, data: bytes
) -> None:
    path = folder / "b.txt"
    path.write_bytes(data)
    run(library, path, encoding=encoding)
    assert len(run(library, path, encoding=encoding).unchanged) == 1
    assert len(run(library, path, encoding=encoding.swapcase()).unchanged) == 1


def test_a_wrong_name_of_an_encoding_is_one_error(library: Library, folder: Path) -> None:
    with pytest.raises(BadInput, match="no text encoding named 'klingon'"):
        run(library, folder, encoding="klingon")


@pytest.mark.parametrize("seconds", [2**33 * 10, -(2**33) * 10])
def test_a_time_of_another_age_costs_nothing(library: Library, folder: Path, seconds: int) -> None:
    path = folder / "b.txt"
    path.write_text(TEXT, encoding="utf-8")
    (folder / "empty.txt").write_bytes(b"")
    for name in (path, folder / "empty.txt"):
        os.utime(name, (seconds, seconds))
    report = run(library, folder)
    assert len(report.added) == 2 and len(report.failed) == 1
    assert library.search("羊驼绒", mode="keywords", filters={"files": "b.txt"})[0].text == TEXT
    assert len(run(library, folder).unchanged) == 2


@pytest.mark.parametrize("kind", ["MARKDOWN", "md", ".md", ".MD"])
def test_types_are_found_as_people_write_them(library: Library, folder: Path, kind: str) -> None:
    (folder / "b.md").write_text(TEXT, encoding="utf-8")
    run(library, folder)
    assert library.search("羊驼绒", mode="keywords", filters={"kinds": kind})[0].text == TEXT


def test_links_to_folders_are_named_and_not_followed(library: Library, folder: Path, tmp_path: Path) -> None:
    away, link = tmp_path / "away", folder / "link"
    away.mkdir()
    (away / "b.txt").write_text(TEXT, encoding="utf-8")
    link.symlink_to(away, target_is_directory=True)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    report = run(library, folder)
    assert [path for path, message in report.warnings if "name the link itself" in message] == [str(link)]
    assert run(library, link).added == [str(link / "b.txt")]
    assert not run(library, folder).removed, "what was named itself stays"
    report = run(library, folder, link)
    assert len(report.unchanged) == 2 and not report.warnings
    (away / "b.txt").unlink()
    assert len(run(library, folder, link).removed) == 1


def test_a_folder_of_links_only_is_explained(library: Library, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "docs").symlink_to(folder, target_is_directory=True)
    with pytest.raises(BadInput, match="linked folders do not count"):
        run(library, tmp_path / "links")


def test_a_pipe_is_refused(library: Library, folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    assert len(run(library, folder).added) == 1, "in a folder it does not count"
    with pytest.raises(BadInput, match="neither a file nor a folder"):
        run(library, folder / "pipe.txt")


def test_a_file_that_was_emptied_loses_its_text_and_one_that_was_spoilt_keeps_it(
    library: Library, folder: Path
) -> None:
    for name in ("emptied.txt", "blank.txt", "spoilt.txt"):
        (folder / name).write_text(f"{name}: {TEXT}", encoding="utf-8")
    run(library, folder)
    (folder / "emptied.txt").write_bytes(b"")
    (folder / "blank.txt").write_text(" \n", encoding="utf-8")
    (folder / "spoilt.txt").write_bytes(BINARY)
    for _ in range(2):
        told = {Path(path).name: message for path, message in run(library, folder).failed}
        assert "is empty" in told["emptied.txt"] and "holds no text" in told["blank.txt"]
        assert "kept" not in told["emptied.txt"] + told["blank.txt"]
        assert told["spoilt.txt"].endswith("What was read of it before is kept.")
        assert {Path(info.path).name for info in library.files()} == {"a.txt", "spoilt.txt"}
    (folder / "emptied.txt").write_text(TEXT, encoding="utf-8")
    assert [Path(path).name for path in run(library, folder).added] == ["emptied.txt"]
