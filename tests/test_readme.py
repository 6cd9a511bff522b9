"""The README and the manual cannot rot: their Python runs, their commands exist, their links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanpaca.integrations.cli import COMMANDS

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
PAGES = [*READMES, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
STEPPED = {"vocab", "webui"}  # commands whose first word names a step with options of its own
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[str]:
    for found, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if found == language:
            yield text


def commands(page: Path) -> Iterator[list[str]]:
    """Every `hanpaca …` and `make …` that a page tells the reader to run."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    for line in lines + re.findall(r"`([^`\n]+)`", text):
        if re.match(r"(hanpaca|make) [a-z]", line):
            yield shlex.split(line)


@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page, "python"))], ids=named)
def test_the_python_of_a_page_runs(page: Path) -> None:
    code = "\n\n".join(blocks(page, "python"))
    # One thread: two would wait for each other on a busy machine, and the bundled model needs no more.
    environment = os.environ | {"OMP_THREAD_LIMIT": "1"}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for program, name, *_ in commands(page):
        known = targets if program == "make" else {*COMMANDS, "help"}
        assert name in known | {"COMMAND"}, f"{named(page)}: {program} {name}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_options_of_a_page_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hanpaca.integrations.cli import main

    for program, name, *words in commands(page):
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        if program == "hanpaca" and options:
            step = words[:1] if name in STEPPED else []
            assert main([name, *step, "--help"]) == 0
            text = capsys.readouterr().out
            assert not [option for option in options if option not in text], f"{named(page)}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", READMES, ids=named)
def test_the_tree_shows_what_is_there(page: Path) -> None:
    tree = next(text for text in blocks(page, "") if text.startswith("core/"))
    room, missing = "", []
    for line in tree.splitlines():
        path, _, phrase = line.strip().partition(" ")
        room = room if line.startswith(" ") else path
        missing += [path] if not (ROOT / ("" if path == room else room) / path).exists() else []
        assert phrase.strip(), f"{path} has no phrase"
    assert not missing


def test_both_languages_have_the_same_pages() -> None:
    english, chinese = ({page.name for page in (ROOT / "docs" / language).glob("*.md")} for language in ("en", "zh"))
    assert english == chinese


def test_both_readmes_show_the_same_tree() -> None:
    trees = [next(text for text in blocks(page, "") if text.startswith("core/")) for page in READMES]
    paths = [[line.split()[0] for line in tree.splitlines()] for tree in trees]
    assert paths[0] == paths[1]
