"""Many clients of the server at once, clients that leave, a full queue, and the end of a server."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from loops import ENDLESS, EXACT, chatml_model, crowd
from servers import Running, serving, stands_still, until

import hanpaca

NO_END: Any = {str(token): -100 for token in ENDLESS}
FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]


def test_a_client_that_leaves_stops_its_work(client: openai.OpenAI, running: Running) -> None:
    story: list[Any] = [{"role": "user", "content": "Write a very long story."}]
    stream = client.chat.completions.create(
        model="smollm2", messages=story, stream=True, max_tokens=6000, logit_bias=NO_END
    )
    for _ in zip(range(5), stream, strict=False):
        pass
    before = running.engine.computed
    stream.close()
    assert stands_still(running.engine)
    assert running.engine.computed - before < 3000
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1.0).chat.completions.create(
            model="smollm2", messages=story, max_tokens=6000, logit_bias=NO_END
        )
    assert stands_still(running.engine)
    figures = httpx.get(f"{running.url}/metrics").text
    assert 'status="499"' in figures and "hanpaca_cancelled_total 2.0" in figures


def test_requests_run_together(running: Running, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, lengths = crowd(running.engine, monkeypatch), list[int]()

    def ask(country: str) -> None:
        asked: list[Any] = [{"role": "user", "content": f"What is the capital of {country}?"}]
        answer = client.chat.completions.create(model="smollm2", messages=asked, logit_bias=NO_END, max_tokens=60)
        assert answer.usage
        lengths.append(answer.usage.completion_tokens)

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("France", "Italy", "Japan", "Spain")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [60] * 4 and counted.most >= 2


def test_a_full_queue_says_when_to_come_again(tmp_path: Path, smollm2: Path) -> None:
    model = hanpaca.load(smollm2, running=1, queue=1, threads=1)
    body = {"messages": FRANCE, "max_tokens": 6000, "logit_bias": NO_END}
    with serving(model, library_folder=tmp_path / "library") as server, httpx.Client(timeout=60) as client:
        route = f"{server.api}/chat/completions"
        with (
            client.stream("POST", route, json=body | {"stream": True}) as first,
            ThreadPoolExecutor() as pool,
        ):
            lines = first.iter_lines()
            next(lines)
            waiting = pool.submit(client.post, route, json=body | {"max_tokens": 2})
            until(lambda: server.engine._weights.waiting)
            refused = client.post(route, json=body)
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "queue_full"
            lines.close()  # type: ignore[attr-defined]
            assert waiting.result().status_code == 200


def test_the_end_of_a_server_lets_answers_finish_and_refuses_new_ones(tmp_path: Path) -> None:
    model = hanpaca.load(chatml_model(tmp_path / "tiny.gguf"), **EXACT)
    body = {"messages": FRANCE, "max_tokens": 300, "stream": True, "logit_bias": NO_END}
    with serving(model, library_folder=tmp_path / "library", grace=30.0) as server, httpx.Client(timeout=60) as client:
        with client.stream("POST", f"{server.api}/chat/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.server.handle_exit(2, None)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert until(lambda: _is_gone(server.url))


def test_answers_that_outlast_the_end_of_a_server_are_told_why(tmp_path: Path) -> None:
    model = hanpaca.load(chatml_model(tmp_path / "tiny.gguf"), **EXACT | {"context": 65_536})
    no_end = {str(token): -100 for token in model.engine.vocabulary.ends}
    body = {"messages": FRANCE, "max_tokens": 60_000, "logit_bias": no_end}
    with (
        serving(model, library_folder=tmp_path / "library", grace=0.5) as server,
        httpx.Client(timeout=60) as client,
        ThreadPoolExecutor() as pool,
    ):
        route = f"{server.api}/chat/completions"
        with client.stream("POST", route, json=body | {"stream": True}) as stream:
            lines = stream.iter_lines()
            next(lines)
            whole = pool.submit(client.post, route, json=body)  # both do not fit at once: this one waits
            until(lambda: "hanpaca_requests_open 3.0" in httpx.get(f"{server.url}/metrics").text)
            server.server.handle_exit(2, None)
            last = [line for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "closing"
        assert (whole.result().status_code, whole.result().json()["error"]["code"]) == (503, "closing")


def _is_gone(url: str) -> bool:
    """No answer any more, or one that says so."""
    try:
        return httpx.get(f"{url}/health/ready").status_code == 503
    except httpx.TransportError:
        return True


def test_a_mixed_load_leaves_no_work_behind(tmp_path: Path) -> None:
    model = hanpaca.load(chatml_model(tmp_path / "tiny.gguf"), running=4, queue=4, threads=1)
    choose, statuses = random.Random(0), list[int]()
    with serving(model, library_folder=tmp_path / "library", max_body=65_536, max_upload=65_536) as server:

        def client(seed: int) -> None:
            own = random.Random(seed)
            with httpx.Client(timeout=60) as http:
                for _ in range(25):
                    statuses.append(_one_of_many(http, server, own))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(client, [choose.random() for _ in range(8)]))
        assert stands_still(server.engine)
        assert until(lambda: "hanpaca_requests_open 1.0" in httpx.get(f"{server.url}/metrics").text)
        assert {200, 400, 413} <= set(statuses) <= {0, 200, 202, 400, 404, 413, 429}
        answer = httpx.post(f"{server.api}/chat/completions", json={"messages": FRANCE, "max_tokens": 2}, timeout=60)
        assert answer.status_code == 200


def _one_of_many(http: httpx.Client, server: Running, choose: random.Random) -> int:
    """The status of one request of a random kind; 0 for one that was left."""
    route, body = f"{server.api}/chat/completions", {"messages": FRANCE, "max_tokens": 40, "logit_bias": NO_END}
    kind = choose.randrange(6)
    if kind == 0:
        with http.stream("POST", route, json=body | {"stream": True, "max_tokens": 1900}) as stream:
            lines = stream.iter_lines()
            for _ in zip(range(choose.randrange(6)), lines, strict=False):
                pass
        return 0
    if kind == 1:
        return http.post(route, content=b'{"messages": [', headers={"Content-Type": "application/json"}).status_code
    if kind == 2:
        return http.post(f"{server.api}/documents", files={"file": ("a.txt", b"a" * 70_000)}).status_code
    if kind == 3:
        return http.post(f"{server.api}/documents", files={"file": ("a.txt", "羊驼吃草。".encode())}).status_code
    if kind == 4:
        return http.post(route, json=body | {"n": 3, "stream": True}).status_code
    return http.post(route, json=body).status_code
