"""Documents over HTTP: upload, progress, search, cited answers, deletion, libraries; and what a crash leaves."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest
from making import pdf, shown
from servers import Running, ready_document, serving, until

import hanpaca
import hanpaca.rag
from hanpaca.integrations.server import documents_gate
from hanpaca.integrations.server.errors import NotHere

CHINESE = "羊驼生活在安第斯山脉，海拔四千米。\n\n成年羊驼可以驮运三十公斤的货物，每天走二十公里。\n"
ENGLISH = "Llamas live in the Andes at four thousand metres.\n\nA grown llama carries a load of thirty kilograms.\n"
QUESTION = "成年羊驼可以驮运多少公斤？"


@pytest.fixture(scope="module")
def running(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("documents")
    model = hanpaca.load("smollm2", threads=1)
    with serving(model, library_folder=folder / "library", libraries_root=folder / "named") as server:
        yield server


@pytest.fixture(scope="module")
def uploaded(running: Running) -> dict[str, Any]:
    """The Chinese document, in GB18030 as many are, once it is ready."""
    files = [("file", ("../羊驼.txt", CHINESE.encode("gb18030"))), ("file", ("llamas.md", ENGLISH.encode()))]
    answer = httpx.post(f"{running.api}/documents", files=files, timeout=60)
    assert answer.status_code == 202, answer.text
    ids = [status["id"] for status in answer.json()["data"]]
    ready = [ready_document(running, id) for id in ids]
    return ready[0]


def test_a_document_is_read_and_kept_under_a_name_of_ours(running: Running, uploaded: dict[str, Any]) -> None:
    assert (uploaded["name"], uploaded["status"], uploaded["encoding"]) == ("羊驼.txt", "ready", "gb18030")
    assert uploaded["passages"] >= 1 and uploaded["done"] == uploaded["total"]
    folder = running.app.state.service.settings.library_folder / "uploads"
    names = {path.name for path in folder.iterdir()}
    assert f"{uploaded['id']}.txt" in names and not [name for name in names if "羊驼" in name]
    assert (folder / f"{uploaded['id']}.txt").read_bytes() == CHINESE.encode("gb18030")
    listed = httpx.get(f"{running.api}/documents").json()["data"]
    assert {document["name"] for document in listed} >= {"羊驼.txt", "llamas.md"}


def test_progress_comes_as_events_until_the_end(running: Running) -> None:
    text = "\n\n".join(f"Paragraph {n} tells of llama number {n} and its load." * 8 for n in range(120))
    sent = httpx.post(f"{running.api}/documents", files={"file": ("long.txt", text.encode())}, timeout=60).json()
    id = sent["data"][0]["id"]
    with httpx.stream("GET", f"{running.api}/documents/{id}/events", timeout=120) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line]
    assert told[-1]["status"] == "ready" and told[-1]["done"] == told[-1]["total"]
    order = ["queued", "reading", "embedding", "ready"]
    seen = [order.index(status["status"]) for status in told]
    assert seen == sorted(seen) and len(told) >= 2
    assert httpx.delete(f"{running.api}/documents/{id}", timeout=60).json()["deleted"]


def test_one_stream_tells_of_every_document_until_none_is_left(running: Running) -> None:
    files = [("file", (f"part {number}.txt", f"Vicuña {number} eats grass.".encode())) for number in range(3)]
    held = threading.Event()
    running.app.state.service.libraries.shelf(None)._worker.submit(held.wait)  # nothing is read before somebody watches
    sent = httpx.post(f"{running.api}/documents", files=files, timeout=60).json()["data"]
    with httpx.stream("GET", f"{running.api}/documents/events", timeout=120) as stream:
        lines = filter(None, stream.iter_lines())
        first = next(lines)
        held.set()
        told = [json.loads(line.removeprefix("data: ")) for line in (first, *lines)]
    last = {status["id"]: status["status"] for status in told}
    assert last == {status["id"]: "ready" for status in sent}
    listed = {one["id"]: one for one in httpx.get(f"{running.api}/documents").json()["data"]}
    assert [listed[one["id"]]["size"] for one in sent] == [len(content) for _, (_, content) in files]  # in bytes
    for status in sent:
        httpx.delete(f"{running.api}/documents/{status['id']}", timeout=60)


def test_one_bad_file_of_an_upload_keeps_none(running: Running) -> None:
    before = len(httpx.get(f"{running.api}/documents").json()["data"])
    files = [("file", ("good.txt", b"Guanaco.")), ("file", ("bad.exe", b"MZ"))]
    refused = httpx.post(f"{running.api}/documents", files=files, timeout=60)
    assert refused.status_code == 400 and "bad.exe" in refused.json()["error"]["message"]
    assert len(httpx.get(f"{running.api}/documents").json()["data"]) == before


def test_a_document_is_found_while_the_vectors_of_another_are_made(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large one takes minutes; the small one after it is read in between, and searched by its words."""
    shelf = running.app.state.service.libraries.shelf(None)
    real, waiting = shelf.library.embed_pending, threading.Event()

    def endless(tell: Any, stop: Any) -> Any:
        waiting.set()
        until(stop)
        return real(tell, stop)

    monkeypatch.setattr(shelf.library, "embed_pending", endless)

    def send(name: str, text: str) -> str:
        answer = httpx.post(f"{running.api}/documents", files={"file": (name, text.encode())}, timeout=60)
        return str(answer.json()["data"][0]["id"])

    large = send("large.txt", "A dromedary has one hump.")
    assert waiting.wait(60)
    small = send("small.txt", "The bactrian has two humps.")
    asked = {"query": "bactrian humps", "mode": "keywords"}

    def found() -> Any:
        data = httpx.post(f"{running.api}/search", json=asked, timeout=60).json()["data"]
        return data and data[0]["file"] == "small.txt"

    assert until(found)
    states = {one["id"]: one["status"] for one in httpx.get(f"{running.api}/documents").json()["data"]}
    assert states[large] == states[small] == "embedding"
    monkeypatch.undo()
    third = send("third.txt", "The third one ends the wait.")
    for id in (large, small, third):
        assert ready_document(running, id)["status"] == "ready"
        httpx.delete(f"{running.api}/documents/{id}", timeout=60)


def test_the_text_around_a_passage_says_whether_it_goes_on(running: Running) -> None:
    text = "\n\n".join(f"Paragraph {number} tells of a camel and its load." for number in range(100))
    sent = httpx.post(f"{running.api}/documents", files={"file": ("camels.txt", text.encode())}, timeout=60).json()
    id = sent["data"][0]["id"]
    ready_document(running, id)
    first = httpx.get(f"{running.api}/documents/{id}/text?start=0&end=10", timeout=60).json()
    assert first["start"] == 0 and first["more"] and text.startswith(first["text"]) and len(first["text"]) > 1000
    whole = httpx.get(f"{running.api}/documents/{id}/text?start=0&end={len(text)}", timeout=60).json()
    assert whole["text"] == text and not whole["more"]
    httpx.delete(f"{running.api}/documents/{id}", timeout=60)


def test_search_finds_the_passage_and_says_where_it_is(running: Running, uploaded: dict[str, Any]) -> None:
    asked = {"query": QUESTION, "k": 3}
    found = httpx.post(f"{running.api}/search", json=asked, timeout=60).json()
    best = found["data"][0]
    assert best["file"] == "羊驼.txt" and best["document"] == uploaded["id"] and "三十公斤" in best["text"]
    assert CHINESE[best["start"] : best["end"]] == best["text"]
    place = f"start={best['start']}&end={best['end']}"
    shown = httpx.get(f"{running.api}/documents/{best['document']}/text?{place}", timeout=60).json()
    assert shown["text"][best["start"] - shown["start"] :].startswith(best["text"])
    assert httpx.get(f"{running.api}/documents/none/text?{place}").status_code == 404
    only = httpx.post(f"{running.api}/search", json=asked | {"filters": {"files": ["llamas.md"]}}, timeout=60).json()
    assert {hit["file"] for hit in only["data"]} == {"llamas.md"}
    wrong = httpx.post(f"{running.api}/search", json=asked | {"filters": {"colour": "red"}})
    assert wrong.status_code == 400 and "not a filter" in wrong.json()["error"]["message"]


def test_a_chat_answers_from_documents_with_sources(running: Running, uploaded: dict[str, Any]) -> None:
    with openai.OpenAI(base_url=running.api, api_key="none", max_retries=0, timeout=120) as client:
        answer: Any = client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": QUESTION}],
            extra_body={"use_documents": True, "filters": {"files": ["羊驼.txt"]}},
        )
        # SmolLM2 speaks no Chinese: the documents are quoted, and the notes say why.
        assert "三十公斤" in answer.choices[0].message.content and answer.mode == "extract" and answer.notes
        source = answer.sources[0]
        assert source["document"] == uploaded["id"] and source["file"] == "羊驼.txt"
        assert CHINESE[source["start"] : source["end"]] == source["quote"]
        written: Any = list(
            client.chat.completions.create(
                model="smollm2",
                messages=[{"role": "user", "content": "How much does a grown llama carry?"}],
                stream=True,
                stream_options={"include_usage": True},
                temperature=0,
                extra_body={"use_documents": True, "k": 2},
            )
        )
    text = "".join(piece.choices[0].delta.content or "" for piece in written if piece.choices)
    last = next(piece for piece in written if getattr(piece, "sources", None) is not None)
    assert text and last.mode == "stuff" and written[-1].usage.completion_tokens > 0
    assert {source["file"] for source in last.sources} <= {"llamas.md", "羊驼.txt"}


def test_documents_can_be_quoted_without_any_model(tmp_path: Path) -> None:
    with serving(None, library_folder=tmp_path / "library", libraries_root=tmp_path / "named") as server:
        listed = httpx.get(f"{server.api}/libraries").json()["data"]
        assert [(one["id"], one["files"]) for one in listed] == [("default", 0)]
        assert httpx.get(f"{server.api}/documents").json()["data"] == []
        assert not (tmp_path / "library").exists()
        sent = httpx.post(f"{server.api}/documents", files={"file": ("a.txt", CHINESE.encode())}, timeout=60).json()
        ready_document(server, sent["data"][0]["id"])
        asked = {"messages": [{"role": "user", "content": QUESTION}]}
        answer = httpx.post(f"{server.api}/chat/completions", json=asked | {"use_documents": True}, timeout=60).json()
        assert "三十公斤" in answer["choices"][0]["message"]["content"]
        assert httpx.post(f"{server.api}/chat/completions", json=asked).status_code == 404


def test_a_page_is_drawn_for_a_pdf_only(running: Running, uploaded: dict[str, Any]) -> None:
    sent = {"file": ("camels.pdf", pdf([shown("Nothing here."), shown("A camel carries two hundred kilograms.")]))}
    id = httpx.post(f"{running.api}/documents", files=sent, timeout=60).json()["data"][0]["id"]
    assert ready_document(running, id)["status"] == "ready"
    url = f"{running.api}/documents/{id}"
    hits = httpx.post(f"{running.api}/search", json={"query": "camel kilograms"}, timeout=60).json()["data"]
    hit = next(hit for hit in hits if hit["document"] == id)
    start = hit["start"] + hit["text"].index("two hundred")
    span = {"start": start, "end": start + len("two hundred")}
    drawn = httpx.get(f"{url}/page", params=span, timeout=60).json()
    assert (drawn["page"], drawn["pages"], drawn["marked"]) == (2, 2, "two hundred") and len(drawn["rectangles"]) == 1
    assert base64.b64decode(drawn["png"]).startswith(b"\x89PNG")
    assert httpx.get(f"{url}/page", params=span | {"page": 1}, timeout=60).json()["marked"] == ""
    alone = httpx.get(f"{url}/page", params={"page": 1}, timeout=60).json()
    assert (alone["page"], alone["pages"], alone["rectangles"]) == (1, 2, [])
    for path, asked in ((url, span | {"page": 9}), (url, {"start": 9**9, "end": 9**9 + 1})):
        assert httpx.get(f"{path}/page", params=asked, timeout=60).status_code == 400
    assert httpx.get(f"{running.api}/documents/{uploaded['id']}/page", params={"start": 0, "end": 5}).status_code == 400
    assert httpx.delete(url, timeout=60).status_code == 200
    assert httpx.get(f"{url}/page", params=span, timeout=60).status_code == 404


def test_what_is_deleted_is_gone(running: Running, uploaded: dict[str, Any]) -> None:
    secret = "蓝色的羊驼只在星期四唱歌。"
    files = {"file": ("secret.txt", secret.encode())}
    id = httpx.post(f"{running.api}/documents", files=files, timeout=60).json()["data"][0]["id"]
    ready_document(running, id)
    assert httpx.delete(f"{running.api}/documents/{id}", timeout=60).json() == {
        "id": id,
        "object": "document",
        "deleted": True,
    }
    assert httpx.get(f"{running.api}/documents/{id}").status_code == 404
    assert httpx.delete(f"{running.api}/documents/{id}").status_code == 404
    folder = running.app.state.service.settings.library_folder
    assert not list(folder.glob(f"uploads/{id}*"))
    held = [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert not held
    found = httpx.post(f"{running.api}/search", json={"query": secret}, timeout=60).json()
    assert "星期四" not in json.dumps(found["data"], ensure_ascii=False)


def test_what_cannot_be_read_is_told(running: Running) -> None:
    def post(name: str, content: bytes) -> httpx.Response:
        return httpx.post(f"{running.api}/documents", files={"file": (name, content)}, timeout=60)

    assert "cannot be read" in post("picture.exe", b"MZ").json()["error"]["message"]
    failed = ready_document(running, post("broken.pdf", b"%PDF-1.4 nothing").json()["data"][0]["id"])
    assert failed["status"] == "failed" and failed["id"] not in failed["error"] and "broken.pdf" in failed["error"]
    assert failed["id"] in {document["id"] for document in httpx.get(f"{running.api}/documents").json()["data"]}
    assert httpx.delete(f"{running.api}/documents/{failed['id']}").status_code == 200
    for answer in (
        httpx.post(f"{running.api}/documents", json={}),
        httpx.post(f"{running.api}/documents", files={"other": ("a.txt", b"a")}),
        httpx.post(f"{running.api}/documents", content=b"x", headers={"Content-Type": "multipart/form-data"}),
    ):
        assert answer.status_code == 400, answer.text


def test_names_of_uploads_stay_text(running: Running) -> None:
    name = '<img src=x onerror="alert(1)">.txt'
    answer = httpx.post(f"{running.api}/documents", files={"file": (name, b"llama")}, timeout=60)
    told = ready_document(running, answer.json()["data"][0]["id"])
    assert "onerror" in told["name"] and answer.headers["content-type"] == "application/json"
    assert httpx.delete(f"{running.api}/documents/{told['id']}", timeout=60).status_code == 200


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


@pytest.mark.parametrize("name", ["a.txt", "a.json"])
def test_uploads_that_a_crash_left_unread_are_read_by_the_next_run(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "library"
    text = json.dumps([CHINESE], ensure_ascii=False) if name.endswith("json") else CHINESE
    with serving(None, library_folder=folder) as server:
        id = httpx.post(f"{server.api}/documents", files={"file": (name, text.encode())}, timeout=60).json()
        id = id["data"][0]["id"]
        ready_document(server, id)
    with hanpaca.rag.Library.open(folder) as library:  # as if it had been killed before reading
        library.delete(f"uploads/{id}/{name}")
    (folder / "uploads" / ".0123456789abcdef.part").write_bytes(b"half")
    with serving(None, library_folder=folder) as server:
        assert ready_document(server, id)["status"] == "ready"
        assert [document["id"] for document in httpx.get(f"{server.api}/documents").json()["data"]] == [id]
        assert httpx.delete(f"{server.api}/documents/{id}", timeout=60).status_code == 200
        assert not list((folder / "uploads").glob(f"{id}*"))
