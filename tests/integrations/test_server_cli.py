"""`hanpaca serve` as a user starts and stops it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hanpaca.core.errors import BadInput
from hanpaca.integrations.cli import main, serve
from hanpaca.integrations.cli.places import model_options

HANPACA = str(Path(sys.executable).with_name("hanpaca"))


@contextmanager
def served(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A server in a process of its own, and what it told."""
    environment = {name: text for name, text in os.environ.items() if name not in ("HANPACA_MODEL", "HANPACA_TOKEN")}
    environment |= {"HANPACA_LIBRARIES": str(folder / "libraries")}
    command = [HANPACA, "serve", "--port", "0", "--json", *words]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped(tmp_path: Path, stop: signal.Signals) -> None:
    with served(tmp_path, "--model", "smollm2", "--threads", "1", "--name", "mine") as (process, told):
        assert (told["model"], told["library"], told["token"]) == ("mine", "default", None)
        asked = {"model": "mine", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        assert httpx.post(f"{told['api']}/chat/completions", json=asked, timeout=60).status_code == 200
        process.send_signal(stop)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in errors and errors.endswith("stopped.\n")
    assert '"route": "/v1/chat/completions", "status": 200' in errors and "Hi" not in errors


def test_the_memory_of_finished_conversations_is_an_option() -> None:
    found = serve._parser().parse(["--model", "smollm2", "--prefix-memory", "64"])
    assert model_options(found)["prefix_memory"] == 64 << 20
    usual = model_options(serve._parser().parse(["--model", "smollm2"]))
    assert not {"prefix_memory", "threads"} & usual.keys(), "a server takes every core"


def test_documents_alone_and_a_token_for_other_machines(tmp_path: Path) -> None:
    with served(tmp_path, "--model", "none", "--host", "0.0.0.0", "--library", "./papers", "--quiet") as (_, told):
        assert (told["model"], told["library"]) == (None, "papers") and len(told["token"]) >= 24
        assert httpx.get(f"{told['api']}/libraries").status_code == 401
        headers = {"Authorization": f"Bearer {told['token']}"}
        listed = httpx.get(f"{told['api']}/libraries", headers=headers).json()["data"]
        assert [library["id"] for library in listed] == ["papers"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "port must be"),
        (["--timeout", "0"], "--timeout"),
        (["--token", ""], "token"),
        (["--host", "no.such.host.invalid"], "listen"),
        (["--model", "gpt-4"], "no model"),
        (["--max-upload", "0"], "max_upload"),
    ],
)
def test_wrong_options_are_told_at_once(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", *words]) == BadInput.exit_code
    assert said in capsys.readouterr().err
