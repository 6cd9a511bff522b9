"""Commands whose standard streams are closed, are not UTF-8, or carry what no terminal should see."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_runs import HANPACA

from hanpaca.rag import Library

TEXT = "A llama \x9b2J\x1b]0;renamed\x07weighs \x1b[8m150 kilograms, 中文.\n"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    with Library.open(tmp_path / "lib") as library:
        library.add_text(TEXT, "羊驼.txt", embed=False)
    return tmp_path / "lib"


def ran(
    words: Sequence[str | Path], stdin: bytes = b"", shell: str = "", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """The command as a shell starts it; `shell` is a redirection."""
    line = ["sh", "-c", f'exec "$0" "$@" {shell}', HANPACA, *map(str, words)]
    return subprocess.run(line, input=stdin, capture_output=True, env=os.environ | variables, check=False)


@pytest.mark.parametrize("words", [["search", "llama"], ["ask", "How heavy is a llama?", "--model", "none"]])
def test_a_document_moves_no_cursor(library: Path, words: list[str]) -> None:
    told = ran([*words, "--library", library])
    assert told.returncode == 0 and b"150 kilograms" in told.stdout
    assert not any(code in told.stdout + told.stderr for code in (b"\x1b", b"\x07", b"\xc2\x9b"))
    printed = ran([*words, "--library", library, "--json"]).stdout
    assert b"\x1b" not in printed and b"\xc2\x9b" not in printed
    whole = json.loads(printed)
    assert "\x1b[8m" in json.dumps(whole, ensure_ascii=False).encode().decode("unicode_escape")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk"])
def test_a_terminal_that_lacks_a_character(library: Path, encoding: str) -> None:
    commands: list[list[str | Path]] = [["sources", "--library", library], ["eval", "--help"]]
    for words in commands:
        told = ran(words, PYTHONIOENCODING=f"{encoding}:strict")
        assert told.returncode == 0 and not told.stderr, told.stderr
    told = ran(["sources", "--library", library, "--json"], PYTHONIOENCODING=encoding)
    assert json.loads(told.stdout)["files"][0]["path"].endswith("羊驼.txt")


def test_bytes_that_are_no_text(library: Path) -> None:
    question = os.fsdecode(b"How heavy is a \xff llama?")
    told = ran(["ask", question, "--library", library, "--model", "none", "--json"], PYTHONIOENCODING="utf-8:strict")
    assert json.loads(told.stdout)["mode"] == "extract"
    words: list[str | Path] = ["chat", "--library", library, "--model", "none"]
    told = ran(words, b"How heavy is a \xff llama?\n", PYTHONIOENCODING="utf-8:strict")
    assert told.returncode == 0 and b"150 kilograms" in told.stdout


def test_closed_streams(library: Path, tmp_path: Path) -> None:
    for shell in (">&-", "2>&-", "<&-", "<&- >&- 2>&-"):
        told = ran(["sources", "--library", library], shell=shell)
        assert told.returncode == 0 and b"Traceback" not in told.stderr
        assert (b"1 files" in told.stdout) == (">&-" not in shell.replace("2>&-", ""))
    (tmp_path / "b.txt").write_text("More text.", encoding="utf-8")
    words: list[str | Path] = ["ingest", tmp_path / "b.txt", "--library", library, "--text-only"]
    assert ran(words, shell="<&- >&- 2>&-").returncode == 0
    assert b"2 files" in ran(["sources", "--library", library]).stdout
    assert ran(["chat", "--library", library, "--model", "none"], shell="<&-").returncode == 0
