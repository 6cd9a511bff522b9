"""The remote engine against a real vLLM that serves SmolLM2, where `HANPACA_VLLM` says its address.

vllm serve DIR --served-model-name smollm2 --max-model-len 2048 --dtype bfloat16 --port 8201
HANPACA_VLLM=http://127.0.0.1:8201/v1 pytest -c tests/pytest.ini tests/core/test_remote_vllm.py
"""

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import until

import hanpaca
from hanpaca import Message, Model, Sampling
from hanpaca.core.errors import ContextOverflow, UnsupportedFeature

URL = os.environ.get("HANPACA_VLLM", "")
pytestmark = pytest.mark.skipif(not URL, reason="HANPACA_VLLM names no running vLLM")
GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_tokens=16)
FRANCE = [Message("user", "What is the capital of France? Answer in one word.")]


@pytest.fixture(scope="module")
def far(smollm2: Path) -> Iterator[Model]:
    with hanpaca.load(f"{URL}#smollm2") as model:
        yield model


@pytest.fixture(scope="module")
def near(smollm2: Path) -> Iterator[Model]:
    with hanpaca.load("smollm2", threads=1) as model:
        yield model


def test_it_answers_whole_streamed_and_many_at_once(far: Model) -> None:
    answer = far.chat(FRANCE, GREEDY)
    assert "Paris" in answer.text and answer.finish_reason == "stop"
    assert answer.usage.prompt_tokens == far.count_tokens(FRANCE)
    assert "".join(delta.text for delta in far.stream_chat(FRANCE, GREEDY)) == answer.text
    assert len(far.chat_batch([FRANCE] * 12, GREEDY)) == 12


def test_scores_and_logprobs_are_the_models(far: Model, near: Model) -> None:
    continuation = " Paris, which is"
    theirs: Any = far.score("The capital of France is", continuation)
    ours: Any = near.score("The capital of France is", continuation)
    assert theirs == pytest.approx(ours, abs=0.5)  # bfloat16 there, eight or four bits here
    answer = far.chat(FRANCE, GREEDY, logprobs=2)
    assert b"".join(one.text for one in answer.logprobs).decode() == answer.text
    assert all(len(one.top) == 2 and one.top[0][0] == one.token for one in answer.logprobs)


def test_schemas_hold_and_stop_texts_stop(far: Model) -> None:
    schema = {"type": "object", "properties": {"stars": {"type": "integer"}}, "required": ["stars"]}
    told = far.chat([Message("user", "Rate Paris as JSON.")], json_schema=schema, max_tokens=40).text
    assert '"stars"' in told and told.rstrip().endswith("}")
    assert "5" not in far.chat([Message("user", "Count from 1 to 9.")], GREEDY, stop=("5",), max_tokens=40).text


def test_a_closed_stream_stops_the_work_there(far: Model) -> None:
    stream: Any = far.stream_chat([Message("user", "Write a very long story.")], max_tokens=1800)
    next(stream)
    stream.close()

    def idle() -> bool:
        with urllib.request.urlopen(URL.removesuffix("/v1") + "/metrics", timeout=10) as answer:
            figures = answer.read().decode()
        line = next(line for line in figures.splitlines() if line.startswith("vllm:num_requests_running{"))
        return float(line.split()[-1]) == 0

    until(idle, 20)


def test_what_it_lacks_is_refused(far: Model) -> None:
    with pytest.raises(UnsupportedFeature, match="mirostat"):
        far.chat(FRANCE, mirostat=2)
    with pytest.raises(ContextOverflow):
        far.chat(FRANCE, max_tokens=100_000)
