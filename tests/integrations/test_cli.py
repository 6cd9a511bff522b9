"""The command line as a user meets it: speed, help, JSON, pipes, signals, and the main job from end to end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hanpaca.integrations.cli import COMMANDS, main

HANPACA = str(Path(sys.executable).with_name("hanpaca"))
CHINESE = "自适应 NTK 把 4K 模型的上下文扩展到 12K，不需要任何训练。\n量化用更少的位数保存模型权重。\n"
HEAVY = {
    "asyncio", "chromadb", "huggingface_hub", "langchain", "langchain_core", "llama_cpp", "llama_index", "numpy",
    "pydantic", "rich", "torch", "transformers",
}  # fmt: skip
ENGLISH = "Llamas live in the Andes. A grown llama carries a load of thirty kilograms.\n"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Libraries and models in a folder of the test's own."""
    own = {"HANPACA_LIBRARIES": str(tmp_path / "libraries"), "HANPACA_CACHE": str(tmp_path / "models")}
    return {name: text for name, text in os.environ.items() if name != "HANPACA_MODEL"} | own


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [HANPACA, *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, input=stdin, capture_output=True, text=True, check=False
        )

    return call


@pytest.fixture
def told(environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command with --json in this process and returns its object."""
    for name in ("HANPACA_LIBRARIES", "HANPACA_CACHE"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.delenv("HANPACA_MODEL", raising=False)

    def call(*words: str) -> Any:
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


@pytest.mark.parametrize("words", [["--help"], ["models"], ["models", "--json"], ["no-such-command"]])
def test_a_quick_answer_loads_nothing_heavy(environment: dict[str, str], words: list[str]) -> None:
    """What makes it come in under 0.3 s; the seconds themselves are measured by benchmarks/cli.py."""
    code = (
        "import sys; from hanpaca.integrations.cli import main; main(sys.argv[1:]);"
        "print(' '.join({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *words]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    loaded = set(ran.stderr.splitlines()[-1].split())
    assert "hanpaca" in loaded
    assert not loaded & HEAVY


def test_help_names_every_command(run: Any) -> None:
    text = run("--help").stdout
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert run().stdout == text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: hanpaca {name}")
    assert "--json" in text


def test_the_version(run: Any) -> None:
    from hanpaca import __version__

    assert run("--version").stdout == f"hanpaca {__version__}\n"


def test_a_closed_pipe_is_quiet(environment: dict[str, str]) -> None:
    script = f"set -o pipefail; '{HANPACA}' models --json | head -c 1; echo \" $?\""
    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    assert ran.stdout.split()[0] == "{"


def test_ctrl_c_is_one_line_and_130(environment: dict[str, str], tmp_path: Path, smollm2: Path) -> None:
    with subprocess.Popen(
        [HANPACA, "chat", "--model", str(smollm2), "--max-tokens", "5"],
        cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as chat:  # fmt: skip
        assert chat.stdin
        assert chat.stdout
        assert chat.stderr
        chat.stdin.write("hello\n")
        chat.stdin.flush()
        chat.stdout.readline()  # it has answered, and waits for the next message
        for _ in range(5):  # the first may still find it at the end of its answer, which it then stops
            chat.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                chat.wait(5)
                break
        code, errors = chat.wait(1), chat.stderr.read()
    assert code == 130
    assert errors.removeprefix(" [stopped]\n") == "hanpaca: stopped.\n"


def test_chat_remembers_the_conversation_in_a_pipe(run: Any, smollm2: Path) -> None:
    ran = run("chat", "--model", str(smollm2), "--max-tokens", "8", "--temperature", "0", stdin="Hello\n\nAnd now?\n")
    assert ran.returncode == 0, ran.stderr
    assert len([line for line in ran.stdout.splitlines() if line]) >= 2


def test_models_as_json(told: Any) -> None:
    models = {model["name"]: model for model in told("models")["models"]}
    assert models["chinese-alpaca-2-7b"]["gguf"] == "hfl/chinese-alpaca-2-7b-gguf"
    assert models["chinese-alpaca-2-7b"]["files"] == []


@pytest.mark.usefixtures("smollm2")
def test_doctor_as_json(told: Any) -> None:
    report = told("doctor")
    llama_cpp = report["engines"]["llama_cpp"]
    assert llama_cpp["ok"]
    assert (llama_cpp["amx"] is None) == ("AMX_INT8" not in llama_cpp["compiled_for"])
    assert report["bundled"]["smollm2"].endswith(".gguf")
    assert report["machine"]["memory_free"] > 0
    assert {model["name"] for model in report["models"]} >= {"chinese-alpaca-2-7b", "chinese-alpaca-2-13b"}
    assert report["extras"]["demo"] == {"missing": [], "cure": ""}


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "ntk.txt").write_text(CHINESE, encoding="utf-8")
    (folder / "llamas.txt").write_text(ENGLISH, encoding="utf-8")
    yield folder


@pytest.mark.usefixtures("smollm2")
def test_the_main_job(told: Any, documents: Path) -> None:
    report = told("ingest", str(documents))
    assert (len(report["added"]), report["failed"]) == (2, [])
    again = told("ingest", str(documents))
    assert (len(again["unchanged"]), again["embedded"]) == (2, 0)

    english = told("ask", "What load does a llama carry?")
    assert english["mode"] in ("focus", "extract") and "thirty" in english["text"]
    assert Path(english["citations"][0]["file"]).name == "llamas.txt"
    written = told("ask", "What load does a llama carry?", "--mode", "stuff", "--temperature", "0")
    assert (written["mode"], written["model"]) == ("stuff", "smollm2") and "thirty" in written["text"]

    chinese = told("ask", "自适应 NTK 把上下文扩展到多长？")
    assert chinese["mode"] in ("focus", "extract") and "12K" in chinese["text"].splitlines()[0]
    assert chinese["citations"][0]["quote"] in CHINESE
    quoted = told("ask", "自适应 NTK 把上下文扩展到多长？", "--model", "smollm2")
    assert quoted["mode"] == "extract"
    assert any("hanpaca pull chinese-alpaca-2-7b" in line for line in quoted["notes"])

    assert told("search", "llama load")["hits"][0]["file"].endswith("llamas.txt")
    assert len(told("sources")["files"]) == 2
    assert list(told("delete", "llamas.txt")["removed"].values()) == [1]
    assert len(told("sources")["files"]) == 1


def test_a_backup_comes_back_whole(told: Any, documents: Path, tmp_path: Path) -> None:
    told("ingest", str(documents))
    told("backup", str(tmp_path / "library.zip"))
    told("restore", str(tmp_path / "library.zip"), "--library", "again")
    assert len(told("sources", "--library", "again")["files"]) == 2


def test_answers_are_shown_with_notes_and_citations(run: Any, documents: Path) -> None:
    run("ingest", str(documents))
    ran = run("ask", "自适应 NTK 把上下文扩展到多长？", "--model", "none")
    assert ran.returncode == 0, ran.stderr
    assert "扩展到 12K" in ran.stdout
    assert "[1] documents/ntk.txt, line 1" in ran.stdout


@pytest.mark.usefixtures("smollm2")
def test_the_demo_answers_in_both_languages_and_embeds_once(told: Any, tmp_path: Path) -> None:
    words = ("demo", "--library", str(tmp_path / "demo"))
    first = told(*words)
    assert first["embedded"] > 50
    english, chinese = first["answers"]
    assert "3.92" in english["answer"]
    assert english["sources"]
    assert "12K" in chinese["answer"].splitlines()[0]  # by itself where the reader is sure of it, else in a quotation
    assert "12K" in chinese["sources"][0]["quote"]
    second = told(*words)
    assert second["embedded"] == 0
    # not the words above the quotations: once its prompt is in the cache, a reader at its threshold may be sure or not
    quoted = [
        [{source["quote"] for source in answer["sources"]} for answer in run["answers"]] for run in (first, second)
    ]
    assert quoted[0] == quoted[1]
