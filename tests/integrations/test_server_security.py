"""Who the server answers: hosts, origins, tokens, sizes, rates; and that nothing sent ends in a fault of ours."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from loops import chatml_model
from servers import Running, serving

import hanpaca
from hanpaca.core.errors import BadInput
from hanpaca.integrations.server import ServerSettings, create_app
from hanpaca.integrations.server.running import listen
from hanpaca.integrations.server.security import Rate

ASK = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
OPEN = {"/health", "/health/ready"}
ROUTES = [
    (method.upper(), path.replace("{", "").replace("}", ""))
    for path, methods in create_app().openapi()["paths"].items()
    for method in methods
    if path not in OPEN
] + [("GET", "/openapi.json"), ("GET", "/nowhere"), ("DELETE", "/"), ("POST", "/static/app.js")]


@pytest.fixture(scope="module")
def running(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server") / "library"
    model = hanpaca.load("smollm2", threads=1)
    with serving(model, library_folder=folder, max_body=64 * 1024, max_upload=256 * 1024) as server:
        yield server


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two tokens, no model."""
    folder = tmp_path_factory.mktemp("closed") / "library"
    with serving(None, library_folder=folder, tokens=("first-token", "second-token")) as server:
        yield server


def raw(running: Running, text: str) -> bytes:
    """The answer to bytes as they are."""
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(text.encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


# -- who may ask --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil", "127.0.0.1.evil.example", "", "a@localhost"])
def test_a_name_that_was_rebound_to_this_machine_is_refused(running: Running, host: str) -> None:
    answer = httpx.get(f"{running.api}/models", headers={"Host": host})
    assert answer.status_code in (400, 403) and "smollm2" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "[::1]:80", "LOCALHOST:9"])
def test_loopback_has_several_names(running: Running, host: str) -> None:
    assert httpx.get(f"{running.api}/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_pages_of_other_origins_are_refused(running: Running, origin: str) -> None:
    headers = {"Origin": origin}
    answer = httpx.post(f"{running.api}/chat/completions", json=ASK, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin")
    assert httpx.post(f"{running.api}/documents", files={"file": ("a.txt", b"a")}, headers=headers).status_code == 403
    asked = httpx.options(f"{running.api}/chat/completions", headers=headers)
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_an_origin_that_was_allowed_may_ask_from_a_browser(tmp_path: Path) -> None:
    page = "http://intranet:3000"
    with serving(None, library_folder=tmp_path, tokens=("t",), allowed_origins=(f"{page}/",)) as server:
        url, other = f"{server.api}/models", "http://intranet:3001"
        preflight = httpx.options(url, headers={"Origin": page, "Access-Control-Request-Method": "GET"})
        allowed = preflight.headers["access-control-allow-headers"].split(", ")
        assert preflight.status_code == 204 and {"Authorization", "*"} <= set(allowed)  # which * does not mean
        answer = httpx.get(url, headers={"Origin": page, "Authorization": "Bearer t"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page)
        assert httpx.get(url, headers={"Origin": page}).status_code == 401
        refused = httpx.options(url, headers={"Origin": other, "Access-Control-Request-Method": "GET"})
        assert refused.status_code == 403 and "access-control-allow-origin" not in refused.headers


def test_the_servers_own_page_and_no_page_at_all_may_ask(running: Running) -> None:
    assert httpx.get(f"{running.api}/models", headers={"Origin": running.url}).status_code == 200
    assert httpx.get(f"{running.api}/models", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert httpx.get(f"{running.api}/models", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_a_link_on_another_page_leads_to_the_page_and_to_nothing_else(running: Running) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert "<title>" in httpx.get(running.url, headers=link).text
    assert httpx.get(f"{running.api}/models", headers=link).status_code == 403
    assert httpx.get(running.url, headers=link | {"Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert httpx.get(running.url, headers=link | {"Sec-Fetch-Mode": "no-cors"}).status_code == 403


def test_behind_a_proxy_that_speaks_tls_the_page_may_ask(tmp_path: Path) -> None:
    with serving(None, library_folder=tmp_path / "library", allowed_hosts=("box",)) as server:

        def ask(origin: str) -> int:
            return httpx.get(f"{server.api}/models", headers={"Host": "box", "Origin": origin}).status_code

        origins = ("https://box", "http://box", "https://box:8443", "https://other", "ftp://box")
        assert [ask(origin) for origin in origins] == [200, 200, 403, 403, 403]


def test_head_says_what_get_says_without_a_body(running: Running) -> None:
    for path in ("/", "/health", "/v1/models"):
        head, whole = httpx.head(running.url + path), httpx.get(running.url + path)
        assert (head.status_code, head.content) == (200, b"") and head.headers["content-type"] in whole.headers.values()


def test_the_page_runs_nothing_but_its_own_files(closed: Running) -> None:
    for path in ("/", "/static/app.js", "/static/style.css"):
        answer = httpx.get(closed.url + path)
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200 and "script-src 'self'" in policy and "unsafe" not in policy
    page = httpx.get(closed.url).text
    assert "<script type" in page and "://" not in page and " on" not in re.sub(r"(?s)>.*?<", "><", page)
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/none"):
        assert httpx.get(closed.url + path).status_code in (401, 404)
    assert httpx.post(closed.url).status_code == 401


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_token_every_route_refuses(closed: Running, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic first-token"}):
        answer = httpx.request(method, closed.url + path, headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["type"] == "authentication_error"


def test_either_token_opens_and_health_needs_none(closed: Running) -> None:
    for token in ("first-token", "second-token"):
        assert httpx.get(f"{closed.api}/models", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert httpx.get(f"{closed.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{closed.url}/health/ready").status_code == 200


def test_other_addresses_than_loopback_get_a_token() -> None:
    assert ServerSettings(host="127.0.0.1").tokens == () == ServerSettings(host="::1").tokens
    first, second = ServerSettings(host="0.0.0.0"), ServerSettings(host="192.168.1.5")
    assert len(first.tokens[0]) >= 24 and first.tokens != second.tokens
    assert ServerSettings(host="0.0.0.0", tokens=("mine",)).tokens == ("mine",)
    with pytest.raises(BadInput, match="token"):
        ServerSettings(tokens=("",))


def test_on_the_network_addresses_are_known_and_names_are_not(tmp_path: Path) -> None:
    settings = {"host": "0.0.0.0", "tokens": ("t",), "allowed_hosts": ("box.example",), "library_folder": tmp_path}
    with serving(None, **settings) as server:
        port = server.url.rsplit(":", 1)[1]
        url = f"http://127.0.0.1:{port}/v1/models"

        def ask(host: str) -> int:
            return httpx.get(url, headers={"Host": host, "Authorization": "Bearer t"}).status_code

        assert (ask("192.168.1.5"), ask("box.example:80"), ask("evil.example")) == (200, 200, 403)


def test_a_rate_lets_a_minutes_worth_through_and_then_says_how_long_to_wait(tmp_path: Path) -> None:
    rate = Rate(2)
    assert [rate.wait("a") > 0 for _ in range(3)] == [False, False, True] and rate.wait("b") == 0
    with serving(None, library_folder=tmp_path, requests_per_minute=2) as server:
        statuses = [httpx.get(f"{server.api}/models").status_code for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        assert int(httpx.get(f"{server.api}/models").headers["retry-after"]) >= 1
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_every_answer_carries_the_headers_that_close_it(running: Running) -> None:
    for path in ("/v1/models", "/nowhere", "/health"):
        headers = httpx.get(running.url + path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "server" not in headers


# -- what is sent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"messages": 3}', b'{"messages": []}', b"\xff\xfe", b"[" * 60_000,
        b'{"messages": [{"role": "robot", "content": "a"}]}',
        b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1e400}',
        b'{"messages": [{"role": "user", "content": "a"}], "n": 1000000000000}',
        b'{"messages": [{"role": "user", "content": "a"}], "stop": [""]}',
        b'{"messages": [{"role": "user", "content": "a"}], "logit_bias": {"999999": 1}}',
        b'{"messages": [{"role": "user", "content": "a"}], "grammar": "root ::= ("}',
        b'{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_schema"}}',
        b'{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_schema", "json_schema":'
        b' {"schema": {"enum": ["\\ud800"]}}}}',
        b'{"messages": [{"role": "user", "content": "a"}], "library": "x"}',
        b'{"messages": [{"role": "user", "content": "a"}], "use_documents": true, "filters": {"files": 5}}',
        b'{"messages": [{"role": "user", "content": "a"}], "grammar": "root ::= ' + b"[a]" * 70_000 + b'"}',
        b'{"messages": [{"role": "user", "content": "a"}], "use_documents": true, "library": "../../etc"}',
    ],
)  # fmt: skip
def test_a_bad_body_is_the_clients_fault_and_told_so(running: Running, body: bytes) -> None:
    answer = httpx.post(
        f"{running.api}/chat/completions", content=body, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert answer.status_code in (400, 404, 413), answer.text
    assert answer.json()["error"]["message"]


def test_bodies_over_the_limit_are_refused_before_they_are_read(running: Running) -> None:
    large = {"messages": [{"role": "user", "content": "a" * 70_000}]}
    assert httpx.post(f"{running.api}/chat/completions", json=large).status_code == 413

    def chunks() -> Iterator[bytes]:  # no Content-Length
        for _ in range(30):
            yield b" " * 4096

    answer = httpx.post(
        f"{running.api}/chat/completions", content=chunks(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413 and answer.json()["error"]["message"].startswith("The body is larger")
    assert answer.json()["error"]["code"] == "too_large"


def test_a_body_that_is_not_json_is_told_so(running: Running) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = httpx.post(f"{running.api}/chat/completions", content=json.dumps(ASK), headers={"Content-Type": kind})
        assert answer.status_code == 400 and "application/json" in answer.json()["error"]["message"]


def test_no_body_and_a_body_that_no_parser_bears_are_told_so(running: Running) -> None:
    kind = {"Content-Type": "application/json"}
    for body, part in ((b"", "missing"), (b"\xff\xfe", "not valid"), (b"[" * 60_000, "nests too deep")):
        error = httpx.post(f"{running.api}/chat/completions", content=body, headers=kind).json()["error"]
        assert (
            error["code"] == "invalid_json" and part in error["message"] and "Send one JSON object" in error["message"]
        )


def test_who_hangs_up_in_the_middle_of_a_body_is_no_fault_of_ours(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def cancelled() -> float:
        figures = httpx.get(f"{running.url}/metrics").text
        return float(re.search(r"^hanpaca_cancelled\S* (\S+)$", figures, re.MULTILINE)[1])  # type: ignore[index]

    before = cancelled()
    host, port = running.url.removeprefix("http://").split(":")
    kinds = {"documents": "multipart/form-data; boundary=x", "chat/completions": "application/json"}
    for number, (path, kind) in enumerate(kinds.items(), 1):
        with socket.create_connection((host, int(port)), 20) as connection:
            head = f"POST /v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 500\r\n\r\n"
            connection.sendall(head.encode() + b"--x\r\n")
        end = time.monotonic() + 20
        while cancelled() < before + number and time.monotonic() < end:
            time.sleep(0.05)
        assert cancelled() == before + number, path
    assert "unexpected error" not in caplog.text


def test_headers_have_a_size_and_a_time(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanpaca.integrations.server.running.HEADER_SECONDS", 0.2)
    assert raw(running, "GET /health HTTP/1.1\r\nHost: localhost\r\n") == b"", "the connection ends without an answer"
    assert raw(running, "") == b""
    with suppress(httpx.TransportError):  # it may hang up before all was sent
        large = {f"X-{number}": "a" * 1000 for number in range(200)}
        assert httpx.get(f"{running.url}/health", headers=large).status_code == 400
    answer = httpx.post(f"{running.api}/chat/completions", json=ASK | {"max_tokens": 60, "temperature": 0}, timeout=60)
    assert answer.status_code == 200, "an answer may take longer than its headers"


def test_uploads_over_the_limit_leave_nothing(running: Running) -> None:
    folder = running.app.state.service.settings.library_folder
    files = {"file": ("a.txt", b"a" * 300_000)}
    assert httpx.post(f"{running.api}/documents", files=files).status_code == 413
    assert not list(folder.glob("uploads/*"))


@pytest.mark.parametrize(
    "text",
    [
        "GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9x\r\nConnection: close\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    ],
)
def test_requests_that_are_none(running: Running, text: str) -> None:
    assert raw(running, text).split(b" ")[1].startswith(b"4")


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    with listen(ServerSettings(port=0)) as own, pytest.raises(BadInput, match="free one"):
        listen(ServerSettings(port=own.getsockname()[1]))


# -- what is told --------------------------------------------------------------------------------------------------


def test_logs_and_figures_hold_no_prompt(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    secret = "zanzibar"
    with caplog.at_level("INFO", "hanpaca.server"):
        asked = {"messages": [{"role": "user", "content": secret}], "max_tokens": 2, "model": secret}
        httpx.post(f"{running.api}/chat/completions?q={secret}", json=asked, headers={"Authorization": secret})
        httpx.post(f"{running.api}/chat/completions", json=ASK, timeout=60)
        httpx.get(f"{running.url}/{secret}")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "hanpaca.server"]
    assert {"method": "POST", "route": "/v1/chat/completions", "status": 200}.items() <= lines[1].items()
    figures = httpx.get(f"{running.url}/metrics").text
    assert secret not in caplog.text and secret not in figures
    assert 'hanpaca_requests_total{route="/v1/chat/completions",status="200"}' in figures
    assert 'hanpaca_tokens_total{kind="completion"}' in figures


def test_the_openapi_document_is_valid_and_names_every_route() -> None:
    document: dict[str, Any] = create_app().openapi()
    assert document["openapi"].startswith("3.1")
    validator: Any = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    validator.validate(document)
    served = {"/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/search", "/metrics"}
    assert served | {"/v1/documents", "/v1/documents/events", "/v1/libraries"} <= set(document["paths"])
    assert "delete" in document["paths"]["/v1/libraries/{name}"]


@pytest.mark.slow
def test_no_request_that_the_document_allows_is_a_fault_of_ours(tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    model = hanpaca.load(chatml_model(tmp_path / "tiny.gguf"), threads=1)
    with serving(model, library_folder=tmp_path / "library", request_timeout=1.0) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--seed", "1"]
        command += ["--checks", "not_a_server_error", "--max-time", "150", "--max-examples", "40", "--no-color"]
        command += ["--exclude-path-regex", "events$", "--suppress-health-check", "all", "--warnings", "off"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-1000:]
