"""What Open WebUI's backend sends to an OpenAI-compatible server, sent to ours; and OpenAI's own harmless fields.

Its requests, as `routers/openai.py` of it forms them: the models with the key as bearer token, then a streamed chat
with the usage asked for, and short whole answers for titles and tags.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import Running, serving

import hanpaca

TOKEN = "sk-of-the-connection"
PARAMS = {"temperature": 0.0, "top_p": 0.9, "min_p": 0.0, "max_tokens": 24, "frequency_penalty": 0.0,
          "presence_penalty": 0.0, "seed": 7, "stop": ["###"], "logit_bias": {"0": -100}}  # fmt: skip
"""A model's parameters, as its settings page has them."""


@pytest.fixture(scope="module")
def running(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("clients") / "library"
    with serving(hanpaca.load("smollm2", threads=1), library_folder=folder, tokens=(TOKEN,)) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-OpenWebUI-User-Name": "Li%20Ming", "X-OpenWebUI-Chat-Id": "c1"}
    with httpx.Client(base_url=running.api, headers=headers, timeout=120) as client:
        yield client


def test_a_conversation_as_open_webui_holds_it(client: httpx.Client) -> None:
    listed = client.get("models").json()["data"]
    model = next(one["id"] for one in listed if one.get("kind") != "embedding")
    question = {"role": "user", "content": "What is the capital of France? Answer in one word."}
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You answer briefly."}, question]
    body = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}, **PARAMS}
    with client.stream("POST", "chat/completions", json=body) as reply:
        assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    pieces = [json.loads(line) for line in lines[:-1]]
    said = "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces if piece["choices"])
    assert "Paris" in said and pieces[-1]["usage"]["completion_tokens"] > 0
    messages += [
        {"role": "assistant", "content": said},
        {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
    ]
    assert client.post("chat/completions", json={**body, "stream_options": None}).status_code == 200
    task = {"model": model, "messages": [question], "stream": False, "max_completion_tokens": 8}
    assert client.post("chat/completions", json=task).json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "field",
    [
        {"user": "u1"}, {"store": True}, {"metadata": {"task": "title"}}, {"service_tier": "auto"},
        {"parallel_tool_calls": True}, {"max_completion_tokens": 4}, {"modalities": ["text"]}, {"n": 1},
        {"safety_identifier": "s"}, {"prompt_cache_key": "p"}, {"prompt_cache_retention": "24h"}, {"tools": []},
        {"reasoning_effort": "low"}, {"verbosity": "low"}, {"prediction": {"type": "content", "content": "Paris"}},
        {"tool_choice": "none"}, {"messages": [{"role": "user", "content": "Hi", "name": "Li"}]},
    ],
    ids=lambda field: next(iter(field)),
)  # fmt: skip
def test_fields_of_openai_that_change_no_answer_here_are_not_refused(
    client: httpx.Client, field: dict[str, Any]
) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 2, "temperature": 0, **field}
    answer = client.post("chat/completions", json=body)
    assert answer.status_code == 200, answer.text


def test_a_field_of_nobody_is_still_refused_by_name(client: httpx.Client) -> None:
    answer = client.post("chat/completions", json={"messages": [{"role": "user", "content": "Hi"}], "max_token": 2})
    assert answer.status_code == 400 and "'max_token' is not a field" in answer.json()["error"]["message"]
