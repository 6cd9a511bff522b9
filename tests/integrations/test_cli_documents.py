"""Commands about documents as a user meets them: sync and watching, filters, reasons, chats, questions of one's own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanpaca.core.errors import BadInput, ModelNotFound
from hanpaca.integrations.cli import main

HANPACA = str(Path(sys.executable).with_name("hanpaca"))
CHINESE = "自适应 NTK 把 4K 模型的上下文扩展到 12K，不需要任何训练。\n量化用更少的位数保存模型权重。\n"
ENGLISH = "Llamas live in the Andes. A grown llama carries a load of thirty kilograms.\n"


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "资料"
    (folder / "动物").mkdir(parents=True)
    (folder / "ntk.txt").write_text(CHINESE, encoding="utf-8")
    (folder / "动物" / "llamas.md").write_text(ENGLISH, encoding="utf-8")
    os.utime(folder / "ntk.txt", (0, 1_600_000_000))
    return folder


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("HANPACA_LIBRARIES", str(tmp_path / "libraries"))
    monkeypatch.delenv("HANPACA_MODEL", raising=False)
    return dict(os.environ)


@pytest.fixture
def run(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command in this process; what it said on stdout."""

    def call(*words: str) -> str:
        assert main(list(words)) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def told(run: Callable[..., str]) -> Callable[..., Any]:
    return lambda *words: json.loads(run(*words, "--json"))


def names(hits: list[dict[str, Any]]) -> list[str]:
    return [Path(hit["file"]).name for hit in hits]


def test_sync_follows_a_folder(told: Any, documents: Path) -> None:
    assert len(told("sync", str(documents))["added"]) == 2
    (documents / "ntk.txt").unlink()
    report = told("sync", str(documents))
    assert [Path(path).name for path in report["removed"]] == ["ntk.txt"]
    assert [Path(info["path"]).name for info in told("sources")["files"]] == ["llamas.md"]


def test_words_first_vectors_with_the_next_run(told: Any, documents: Path) -> None:
    assert told("ingest", "--text-only", str(documents))["embedded"] == 0
    assert told("sources")["stats"]["embedded"] == 0
    assert names(told("search", "自适应上下文")["hits"])[0] == "ntk.txt"
    assert told("ingest", str(documents))["embedded"] == 2


def test_an_encoding_by_name(told: Any, run: Any, tmp_path: Path) -> None:
    old = tmp_path / "旧.txt"
    old.write_bytes("羊驼的毛叫做羊驼绒。".encode("gb18030"))
    told("ingest", "--encoding", "gb18030", str(old))
    assert told("sources")["files"][0]["encoding"] == "gb18030"
    assert "gb18030" in run("sources")


def test_filters_of_a_search(told: Any, documents: Path) -> None:
    told("ingest", str(documents))
    for words, found in {
        ("--type", "md"): {"llamas.md"},
        ("--file", "ntk.*"): {"ntk.txt"},
        ("--file", "ntk.txt", "--file", "llamas.md"): {"ntk.txt", "llamas.md"},
        ("--folder", str(documents / "动物")): {"llamas.md"},
        ("--before", "2021-01-01"): {"ntk.txt"},
        ("--after", "2021-01-01"): {"llamas.md"},
    }.items():
        assert set(names(told("search", "llama 上下文", *words)["hits"])) == found, words
    assert told("ask", "自适应 NTK 扩展到多长？", "--model", "none", "--file", "ntk.txt")["citations"]


def test_reasons_and_neighbours(run: Any, told: Any, documents: Path) -> None:
    told("ingest", str(documents))
    shown = run("search", "What load does a llama carry?", "--explain", "-k", "1")
    assert "llamas.md, line 1" in shown and "terms" in shown and "cosine 0." in shown
    assert "cosine" not in run("search", "What load does a llama carry?")
    assert told("search", "llama", "--neighbours", "2")["hits"][0]["text"] == ENGLISH.strip()


def test_no_model_by_the_environment(told: Any, documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told("ingest", str(documents))
    monkeypatch.setenv("HANPACA_MODEL", "none")
    answer = told("ask", "自适应 NTK 扩展到多长？")
    assert (answer["mode"], answer["model"]) == ("extract", None)
    assert told("summarize", str(documents / "动物" / "llamas.md"))["text"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("search", "llama", "--rerank", "no/such-model"), "no reranker no/such-model"),
        (("search", "llama", "--after", "yesterday"), "2026-01-31"),
        (("search", "llama", "--neighbours", "-1"), "at least 0"),
        (("search", "llama", "--type", "pdf"), "passes the filter"),
        (("chat", "--library", "default", "--system", "x", "hello"), "--system and --library"),
        (("chat", "--model", "none", "hello"), "nothing to quote"),
        (("eval", "nowhere.jsonl"), "no file nowhere.jsonl"),
        (("ingest", "资料", "--encoding", "klingon"), "klingon"),
    ],
)
def test_what_is_refused(
    told: Any, documents: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    told("ingest", "--text-only", str(documents))
    monkeypatch.chdir(documents.parent)
    assert main(list(words)) in (BadInput.exit_code, ModelNotFound.exit_code)
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_a_chat_about_documents(environment: dict[str, str], told: Any, documents: Path) -> None:
    told("ingest", str(documents))
    command = [HANPACA, "chat", "--library", "default", "--model", "none"]
    lines = "What load does a llama carry?\nWhere do they live?\n/clear\n自适应 NTK 扩展到多长？\n"
    ran = subprocess.run(command, env=environment, input=lines, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "thirty kilograms" in ran.stdout and "Andes" in ran.stdout and "12K" in ran.stdout
    assert "llamas.md, line 1" in ran.stdout
    assert "What load does a llama carry? Where do they live?" in ran.stderr, "how a follow-up was understood is shown"


def test_one_message_about_documents(told: Any, documents: Path) -> None:
    told("ingest", str(documents))
    answer = told("chat", "--library", "default", "--model", "none", "自适应 NTK 扩展到多长？")
    assert answer["mode"] == "extract" and "12K" in answer["text"] and answer["citations"]


def test_an_answer_where_the_documents_seem_to_hold_none(told: Any, documents: Path) -> None:
    told("ingest", str(documents))
    question = "How tall is the Eiffel tower in Paris?"
    for words in (("ask", "--model", "none"), ("chat", "--library", "default", "--model", "none")):
        assert told(*words, question)["refused"]
        answer = told(*words, question, "--no-abstain")
        assert not answer["refused"] and answer["citations"]


@pytest.mark.usefixtures("smollm2")
def test_a_model_answers_in_a_chat_about_documents(told: Any, documents: Path) -> None:
    told("ingest", str(documents))
    words = ("chat", "--library", "default", "--model", "smollm2", "--temperature", "0", "--max-tokens", "32")
    answer = told(*words, "What load does a llama carry?")
    assert (answer["mode"], answer["model"]) == ("stuff", "smollm2") and "thirty" in answer["text"]


def test_questions_of_ones_own(told: Any, run: Any, documents: Path, tmp_path: Path) -> None:
    told("ingest", str(documents))
    questions = [
        {"question": "自适应 NTK 扩展到多长？", "answer": "12K", "file": "ntk.txt"},
        {"question": "What load does a llama carry?", "answers": ["forty tons"]},
        {"question": "Wie funktioniert Quantenverschränkung?", "answerable": False},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in questions), encoding="utf-8")
    result = told("eval", str(path))
    assert (result["questions"], result["recall"]["10"], result["mrr"]) == (3, 0.5, 0.5)
    assert result["missed"] == ["What load does a llama carry?"]
    assert result["refused_unanswerable"] == 1.0
    assert "50.0%" in run("eval", str(path))


def test_watching_ends_cleanly_with_ctrl_c(environment: dict[str, str], documents: Path) -> None:
    command = [HANPACA, "sync", "--watch", "--text-only", "--json", str(documents)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout is not None
    try:
        first = json.loads(process.stdout.readline())
        assert len(first["added"]) == 2
        time.sleep(2)
        (documents / "新.txt").write_text("后来又写了一份。", encoding="utf-8")
        second = json.loads(process.stdout.readline())
        assert [Path(path).name for path in second["added"]] == ["新.txt"]
    finally:
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    assert "No longer watching" in error and "Traceback" not in error
