"""Libraries over HTTP: made, kept apart, and deleted whole, whatever else goes on in them."""

import io
import threading
from urllib.parse import quote

import httpx
import pytest
from document_server import CHINESE, QUESTION, running
from servers import Running, until

from hanpaca.integrations.server import documents_gate
from hanpaca.integrations.server.errors import NotHere

__all__ = ["running"]


def test_libraries_are_made_and_kept_apart(running: Running) -> None:
    assert httpx.get(f"{running.api}/documents?library=法律").status_code == 404
    made = httpx.post(f"{running.api}/libraries", json={"name": "法律"}, timeout=60)
    assert (made.status_code, made.json()["files"]) == (201, 0)
    files = {"file": ("law.txt", "合同应当采用书面形式。".encode())}
    sent = httpx.post(f"{running.api}/documents", files=files, data={"library": "法律"}, timeout=60).json()
    id = sent["data"][0]["id"]
    until(lambda: httpx.get(f"{running.api}/documents/{id}?library=法律").json()["status"] == "ready")
    assert httpx.get(f"{running.api}/documents/{id}").status_code == 404
    listed = {library["id"]: library["files"] for library in httpx.get(f"{running.api}/libraries").json()["data"]}
    assert listed["法律"] == 1 and len(listed) == 2
    asked = {"query": "合同采用什么形式？", "library": "法律"}
    assert "书面" in httpx.post(f"{running.api}/search", json=asked, timeout=60).json()["data"][0]["text"]
    escaped = httpx.post(f"{running.api}/libraries", json={"name": "../up"}, timeout=60)
    root = running.app.state.service.settings.libraries_root
    assert escaped.status_code == 201 and not (root.parent / "up").exists()


def test_a_library_is_deleted_whole_and_its_name_is_free_again(running: Running) -> None:
    root, secret = running.app.state.service.settings.libraries_root, "紫色的原驼只在星期五唱歌。"
    for name in ("合同/旧", "合同/新"):
        sent = {"file": ("secret.txt", secret.encode())}
        assert httpx.post(f"{running.api}/libraries", json={"name": name}, timeout=60).status_code == 201
        answer = httpx.post(f"{running.api}/documents", files=sent, data={"library": name}, timeout=60)
        id, url = answer.json()["data"][0]["id"], f"{running.api}/documents?library={name}"
        until(lambda id=id, url=url: {one["id"]: one["status"] for one in httpx.get(url).json()["data"]}[id] == "ready")
    old = f"{running.api}/libraries/{quote('合同/旧', safe='')}"
    told = httpx.delete(old, timeout=60)
    assert (told.status_code, told.json()) == (200, {"id": "合同/旧", "object": "library", "deleted": True})
    assert not (root / "合同%2F旧").exists() and (root / "合同%2F新" / "library.sqlite3").is_file()
    names = [one["id"] for one in httpx.get(f"{running.api}/libraries").json()["data"]]
    assert "合同/旧" not in names and "合同/新" in names
    assert httpx.get(f"{running.api}/documents?library=合同/旧").status_code == 404 == httpx.delete(old).status_code
    made = httpx.post(f"{running.api}/libraries", json={"name": "合同/旧"}, timeout=60)
    assert (made.status_code, made.json()["files"]) == (201, 0)
    asked = {"query": secret, "library": "合同/旧"}
    assert "星期五" not in httpx.post(f"{running.api}/search", json=asked, timeout=60).text
    assert httpx.get(f"{running.api}/documents?library=合同/旧").json()["data"] == []
    for name in ("合同/旧", "合同/新"):
        assert httpx.delete(f"{running.api}/libraries/{quote(name, safe='')}", timeout=60).status_code == 200


def test_searches_during_a_deletion_end_or_are_told(running: Running) -> None:
    """SQLite's connections are not closed under a search: that would end the process, or show as a 500."""
    asked, codes, stop = {"query": QUESTION, "library": "racing"}, set[int](), threading.Event()

    def search() -> None:
        while not stop.is_set():
            codes.add(httpx.post(f"{running.api}/search", json=asked, timeout=60).status_code)
            codes.add(httpx.get(f"{running.api}/libraries", timeout=60).status_code)

    searchers = [threading.Thread(target=search) for _ in range(4)]
    for searcher in searchers:
        searcher.start()
    for _ in range(5):
        assert httpx.post(f"{running.api}/libraries", json={"name": "racing"}, timeout=60).status_code == 201
        running.app.state.service.libraries.shelf("racing").library.add_text(CHINESE * 50, "a.txt", embed=False)
        until(lambda: 200 in codes)
        assert httpx.delete(f"{running.api}/libraries/racing", timeout=60).status_code == 200
    stop.set()
    for searcher in searchers:
        searcher.join()
    assert codes <= {200, 400, 404} and 404 in codes  # 400: it has no documents yet


def test_a_library_that_answers_is_not_deleted(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_gate, "READERS_SECONDS", 0.1)
    assert httpx.post(f"{running.api}/libraries", json={"name": "asked"}, timeout=60).status_code == 201
    shelf = running.app.state.service.libraries.shelf("asked")
    with shelf.gate.reading():
        refused = httpx.delete(f"{running.api}/libraries/asked", timeout=60)
    assert refused.status_code == 409 and "being answered" in refused.json()["error"]["message"]
    assert httpx.get(f"{running.api}/documents?library=asked").json()["data"] == []  # and it goes on
    assert httpx.delete(f"{running.api}/libraries/asked", timeout=60).status_code == 200


def test_a_library_that_is_being_read_into_is_not_deleted(running: Running) -> None:
    assert httpx.post(f"{running.api}/libraries", json={"name": "busy"}, timeout=60).status_code == 201
    held, shelf = threading.Event(), running.app.state.service.libraries.shelf("busy")
    shelf._worker.submit(held.wait)
    sent = {"file": ("a.txt", CHINESE.encode())}
    id = httpx.post(f"{running.api}/documents", files=sent, data={"library": "busy"}, timeout=60).json()["data"][0][
        "id"
    ]
    refused = httpx.delete(f"{running.api}/libraries/busy", timeout=60)
    held.set()
    assert refused.status_code == 409 and refused.json()["error"]["code"] == "library_busy"
    url = f"{running.api}/documents/{id}?library=busy"
    until(lambda: httpx.get(url).json()["status"] == "ready")  # the refusal harmed nothing
    assert httpx.delete(f"{running.api}/libraries/busy", timeout=60).status_code == 200
    with pytest.raises(NotHere, match="deleted meanwhile"):  # whoever still held it cannot write into what is gone
        shelf.add(io.BytesIO(b"late"), "late.txt")
    assert not shelf.library.folder.exists()
