"""Bad input at the command line: one clear message, exit code 2, no traceback, and nothing lost."""

import sqlite3
from pathlib import Path

import pypdfium2
import pytest
from cli_runs import Run, refused, run

from hanpaca.rag import Library

TEXT = "Llamas live in the Andes. They carry loads of thirty kilograms.\n"


__all__ = ["run"]


@pytest.fixture(autouse=True)
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANPACA_LIBRARIES", str(tmp_path / "libraries"))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library with one document."""
    folder = tmp_path / "lib"
    with Library.open(folder) as library:
        library.add_text(TEXT, "llamas.txt")
    return folder


def test_a_demo_without_a_model(run: Run) -> None:
    refused(run("demo", "--model", "none"), "answers of a model", "hanpaca ask")


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("--model", "nosuch", "nosuch"), ("--prompt-lookup", "99", "prompt_lookup"), ("--context", "0", "context")],
)
@pytest.mark.usefixtures("smollm2")
def test_a_demo_with_a_model_that_cannot_be_had_indexes_nothing(
    run: Run, tmp_path: Path, option: str, value: str, told: str
) -> None:
    refused(run("demo", "--library", "./new", option, value), told)
    assert not (tmp_path / "new").exists()


def test_a_missing_file(run: Run, library: Path) -> None:
    refused(run("ingest", "nowhere.txt", "--library", library), "nowhere.txt")
    assert "llamas.txt" in run("sources", "--library", library).out


@pytest.mark.parametrize("command", ["ingest", "sync"])
def test_a_missing_file_makes_no_library(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "good.txt").write_text(TEXT, encoding="utf-8")
    refused(run(command, "good.txt", "nowhere.txt", "--library", "./new"), "nowhere.txt", "nothing was changed")
    assert not (tmp_path / "new").exists()
    refused(run("sources", "--library", "./new"), "no library")


def test_a_named_file_that_cannot_be_read_is_told_however_it_is_written(
    run: Run, library: Path, tmp_path: Path
) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "good.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "bad.pdf").write_bytes(b"This is no PDF at all.")
    refused(run("ingest", "good.txt", "e/../bad.pdf", "--library", library), "bad.pdf")


def test_a_home_folder_that_there_is_not(run: Run, library: Path, tmp_path: Path) -> None:
    for chosen in ("~nobody-of-this-name", "~nobody-of-this-name/x"):
        refused(run("sources", "--library", chosen), chosen, "whole path")
    library.rename(tmp_path / "~nobody-of-this-name")
    assert "llamas.txt" in run("sources", "--library", "./~nobody-of-this-name").out


@pytest.mark.parametrize("option", ["-k", "--neighbours"])
def test_more_passages_than_anybody_reads(run: Run, library: Path, option: str) -> None:
    assert run("search", "llamas", "--library", library, option, "1000").code == 0
    for count in ("1001", "99999999999999999999"):
        refused(run("search", "llamas", "--library", library, option, count), option, "1,000 passages", count)
    refused(run("search", "llamas", "--library", library, option, "many"), option, "'many' is no whole number")
    refused(run("ask", "llamas?", "--library", library, "--model", "none", "-k", "1001"), "1,000 passages")


def test_a_backup_over_something_else(run: Run, library: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("Years of work.")
    refused(run("backup", "lib/library.sqlite3", "--library", library), "own folder")
    refused(run("backup", "thesis.docx", "--library", library), "no backup", "another name")
    refused(run("backup", ".", "--library", library), ". is a folder", "library.zip")
    assert (tmp_path / "thesis.docx").read_text() == "Years of work."
    assert "llamas.txt" in run("sources", "--library", library).out


def test_a_folder_with_nothing_readable(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    refused(run("ingest", "pictures", "--library", "./new"), "pictures")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.txt", b""),
        ("binary.txt", bytes(range(256)) * 64),
        ("broken.pdf", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog"),
        ("not-really.pdf", b"This is no PDF at all."),
    ],
)
def test_a_file_without_text(run: Run, library: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(run("ingest", name, "--library", library), name)
    assert "llamas.txt" in run("sources", "--library", library).out


def test_a_pdf_without_text(run: Run, library: Path, tmp_path: Path) -> None:
    empty = pypdfium2.PdfDocument.new()
    empty.new_page(595, 842).close()
    empty.save(tmp_path / "scan.pdf")
    empty.close()
    refused(run("ingest", "scan.pdf", "--library", library), "scan.pdf")


def test_an_unreadable_file_among_readable_ones_is_reported_and_the_rest_is_read(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "good.txt").write_text(TEXT, encoding="utf-8")
    (folder / "empty.txt").write_bytes(b"")
    ran = run("ingest", "documents", "--library", "./new")
    assert ran.code == 0
    assert "1 added" in ran.out
    assert "empty.txt" in ran.err


def test_a_model_file_that_is_no_gguf(run: Run, library: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"this is no model" * 100)
    refused(run("ask", "What do llamas carry?", "--library", library, "--model", "model.gguf"), "model.gguf")


def test_a_truncated_gguf(run: Run, library: Path, tmp_path: Path, smollm2: Path) -> None:
    (tmp_path / "short.gguf").write_bytes(smollm2.read_bytes()[:40_000_000])
    refused(run("ask", "What do llamas carry?", "--library", library, "--model", "short.gguf"), "short.gguf")


def test_a_missing_model_file(run: Run, library: Path) -> None:
    refused(run("ask", "What do llamas carry?", "--library", library, "--model", "./none.gguf"), "none.gguf")


def test_a_question_on_no_library(run: Run) -> None:
    refused(run("ask", "Who?", "--model", "none"), "hanpaca ingest")


def test_a_question_on_an_empty_library(run: Run, tmp_path: Path) -> None:
    Library.open(tmp_path / "empty").close()
    refused(run("ask", "Who?", "--model", "none", "--library", "./empty"), "hanpaca ingest")


def test_a_library_made_with_another_embedder(run: Run, library: Path, tmp_path: Path) -> None:
    with Library.open(library) as opened, opened.store.write():
        opened.store.set_meta("embedder", "another-model 1")
    (tmp_path / "more.txt").write_text(TEXT, encoding="utf-8")
    refused(run("ask", "What do llamas carry?", "--model", "none", "--library", library), "another-model", "reindex")
    refused(run("ingest", "more.txt", "--library", library), "another-model", "reindex")
    assert "llamas.txt" in run("sources", "--library", library).out


def test_an_unknown_model_lists_near_names(run: Run, library: Path) -> None:
    ran = run("ask", "Who?", "--library", library, "--model", "chinese-alpaca2-7b")
    refused(ran, "chinese-alpaca-2-7b", "chinese-alpaca-2-13b")


def test_a_model_that_was_not_pulled_says_how(run: Run, library: Path) -> None:
    refused(run("ask", "Who?", "--library", library, "--model", "chinese-alpaca-2-7b"), "hanpaca pull")


def test_an_empty_question(run: Run, library: Path) -> None:
    refused(run("ask", " ", "--library", library, "--model", "none"))


def test_a_wrong_option_names_the_near_and_the_valid_ones(run: Run) -> None:
    refused(run("models", "--jsn"), "hanpaca: models: ", "--json", "--kind")
    refused(run("ask"), "hanpaca: ask: ", "question", "`hanpaca ask --help`")


def test_an_option_is_not_abbreviated(run: Run) -> None:
    refused(run("models", "--js"), "--json")


def test_an_unknown_command_suggests_a_near_one(run: Run) -> None:
    refused(run("ingset"), "ingest")


def test_a_whole_library_is_deleted_only_when_that_is_said(run: Run, library: Path) -> None:
    (library / "mine.txt").write_text("not the library's")
    refused(run("delete", "--library", library), "--whole-library")
    refused(run("delete", "llamas.txt", "--whole-library", "--library", library), "not both")
    assert "llamas.txt" in run("sources", "--library", library).out
    assert "is deleted" in run("delete", "--whole-library", "--library", library).out
    assert [path.name for path in library.iterdir()] == ["mine.txt"]
    refused(run("delete", "--whole-library", "--library", library), "no library")


def test_a_folder_of_documents_is_deleted(run: Run, tmp_path: Path) -> None:
    inside, library = tmp_path / "合同", tmp_path / "library"
    (inside / "旧").mkdir(parents=True)
    for place in (inside / "一.txt", inside / "旧" / "二.txt", tmp_path / "合同三.txt"):
        place.write_text(f"{place.stem}说的是羊驼的毛。", encoding="utf-8")
    assert run("ingest", inside, tmp_path / "合同三.txt", "--library", library).code == 0
    assert run("delete", inside, "--library", library).out.count("is removed") == 2
    left = run("sources", "--library", library).out
    assert "合同三.txt" in left and "二.txt" not in left
    refused(run("delete", inside, "--library", library), "no file")


def test_deleting_a_file_that_is_not_there_deletes_nothing(run: Run, library: Path) -> None:
    refused(run("delete", "llamas.txt", "alpacas.txt", "--library", library), "alpacas.txt")
    assert "llamas.txt" in run("sources", "--library", library).out


@pytest.mark.parametrize("words", [("--temperature", "-1"), ("--max-tokens", "0")])
def test_a_setting_out_of_range(run: Run, library: Path, words: tuple[str, str]) -> None:
    refused(run("ask", "What do llamas carry?", "--library", library, *words), words[0].strip("-").replace("-", "_"))


def test_a_message_names_a_file_once(run: Run, library: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing more")
    ran = run("ingest", "broken.pdf", "--library", library)
    refused(ran)
    assert ran.err.count("broken.pdf") == 1, ran.err
    assert run("sources", "--library", library).err.count("broken.pdf") == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [(sqlite3.DatabaseError("database disk image is malformed"), "malformed"), (MemoryError(), "not enough memory")],
)
def test_what_fails_beneath_is_one_sentence(
    run: Run, library: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Library, "find", failing)
    ran = run("ask", "where?", "--library", library, "--model", "none")
    assert ran.code == 1 and told in ran.err and "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ask", "llamas", "--mode", "extract", "--model", "smollm2"], "--model is of no use"),
        (["ask", "llamas", "--mode", "extract", "--threads", "1"], "--threads is of no use"),
        (["ask", "llamas", "--model", "none", "--prompt-lookup", "3"], "--prompt-lookup is of no use"),
        (["chat", "llamas", "--model", "none", "--seed", "1"], "--seed is of no use"),
        (["chat", "--json"], "--json goes with one message"),
    ],
)
def test_an_option_that_would_do_nothing(run: Run, library: Path, words: list[str], told: str) -> None:
    refused(run(*words, "--library", library), told)


def test_an_option_of_libraries_or_of_the_catalog_that_would_do_nothing(run: Run) -> None:
    refused(run("chat", "Hello", "--no-abstain"), "--no-abstain goes with --library")
    refused(run("models", "--fit", "--here"), "--here and --fit do not go together")
    refused(run("models", "--cached", "--here"), "--here and --cached do not go together")
    refused(run("models", "--cached", "--kind", "chat"), "--kind and --cached do not go together")


def test_an_empty_path_is_not_the_working_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text(TEXT, encoding="utf-8")
    for words in (["ingest", ""], ["sync", "", "private.txt"], ["backup", ""], ["restore", ""]):
        refused(run(*words, "--library", "./new"), "a path is empty")
    assert not (tmp_path / "new").exists()


def test_what_follows_two_dashes_is_no_option(run: Run, tmp_path: Path) -> None:
    (tmp_path / "-rf.txt").write_text(TEXT, encoding="utf-8")
    assert run("ingest", "--text-only", "--library", "./new", "--", "-rf.txt").code == 0
    assert "thirty kilograms" in run("search", "kilograms", "--library", "./new", "--", "-rf").out
    assert "-rf.txt is removed" in run("delete", "--library", "./new", "--", "-rf.txt").out
    refused(run("ask", "--library", "./new", "--", "--help"), "is empty")


def test_names_as_they_are_shown_and_files_that_were_not_read_can_be_deleted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "new\nline.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "docs" / "blank.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "docs" / "empty.txt").touch()
    run("ingest", "docs", "--library", "./new", "--text-only")
    assert "docs/new\\nline.txt" in run("sources", "--library", "./new").out
    assert "is removed (1 passages)" in run("delete", "docs/new\\nline.txt", "--library", "./new").out
    assert "not read: docs/empty.txt" in run("sources", "--library", "./new").err
    run("delete", "docs/blank.txt", "--library", "./new")
    assert "blank" not in run("sources", "--library", "./new").err
    run("delete", "docs", "--library", "./new")
    assert not run("sources", "--library", "./new").err


def test_a_search_by_meaning_says_what_has_no_vector_yet(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "q.jsonl").write_text('{"question": "What do llamas carry?"}', encoding="utf-8")
    run("ingest", "a.txt", "--library", "./new", "--text-only")
    assert "1 of 1 passages have no vectors yet" in run("search", "llamas", "--library", "./new").err
    assert not run("search", "llamas", "--library", "./new", "--mode", "keywords").err
    assert "1 of 1 passages have no vectors yet" in run("eval", "q.jsonl", "--library", "./new").err


@pytest.mark.parametrize("encoding", ["idna", "undefined", "punycode", "base64", "nonsense"])
def test_an_encoding_that_reads_no_text(run: Run, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    refused(run("ingest", "a.txt", "--library", "./new", "--encoding", encoding), "no text encoding", encoding)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"question": "Who?", "answerable": "false"}', '"answerable" is true or false'),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_questions_of_another_shape(run: Run, library: Path, tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "q.jsonl").write_text(line, encoding="utf-8")
    refused(run("eval", "q.jsonl", "--library", library), "Line 1", told)
