"""Our server in front of a real vLLM, where `HANPACA_VLLM` says its address (`make test-vllm` starts one)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from servers import Running, ready_document, serving

import hanpaca

URL = os.environ.get("HANPACA_VLLM", "")
pytestmark = pytest.mark.skipif(not URL, reason="HANPACA_VLLM names no running vLLM")
FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
LLAMAS = "Llamas live in the Andes at four thousand metres.\n\nA grown llama carries a load of thirty kilograms.\n"


@pytest.fixture(scope="module")
def running(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("vllm") / "library"
    with serving(hanpaca.load(f"{URL}#smollm2"), library_folder=folder) as server:
        yield server


def test_chats_streams_and_schemas_go_through(running: Running) -> None:
    asked: Any = {"model": "smollm2", "messages": FRANCE, "temperature": 0, "max_tokens": 24}
    with openai.OpenAI(base_url=running.api, api_key="none", max_retries=0, timeout=120) as client:
        answer = client.chat.completions.create(**asked)
        assert "Paris" in (answer.choices[0].message.content or "") and answer.usage
        pieces = list(client.chat.completions.create(stream=True, **asked))
        assert "Paris" in "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        schema = {"type": "object", "properties": {"stars": {"type": "integer"}}, "required": ["stars"]}
        form: Any = {"type": "json_schema", "json_schema": {"name": "rating", "schema": schema}}
        rated = client.chat.completions.create(**asked | {"max_tokens": 60}, response_format=form)
        assert '"stars"' in (rated.choices[0].message.content or "")
        with pytest.raises(openai.BadRequestError, match="mirostat"):
            client.chat.completions.create(**asked, extra_body={"mirostat": 2})


def test_documents_are_answered_from(running: Running) -> None:
    sent = httpx.post(f"{running.api}/documents", files={"file": ("llamas.md", LLAMAS.encode())}, timeout=60).json()
    assert ready_document(running, sent["data"][0]["id"])["status"] == "ready"
    asked = {"messages": [{"role": "user", "content": "How much does a grown llama carry?"}], "use_documents": True}
    answer = httpx.post(f"{running.api}/chat/completions", json=asked | {"mode": "stuff"}, timeout=120).json()
    assert answer["choices"][0]["message"]["content"] and answer["mode"] == "stuff"
