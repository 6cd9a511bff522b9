"""Documents over HTTP: upload, progress, search, cited answers, deletion, libraries; and what a crash leaves."""

import base64
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from document_server import CHINESE, ENGLISH, QUESTION, running
from making import pdf, shown
from servers import Running, ready_document, serving, until

import hanpaca
import hanpaca.rag

__all__ = ["running"]


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


@pytest.mark.parametrize(("most", "reason"), [(3, "length"), (200, "stop")])
def test_an_answer_from_documents_says_whether_it_was_cut(
    running: Running, uploaded: dict[str, Any], most: int, reason: str
) -> None:
    asked = {"messages": [{"role": "user", "content": "How much does a grown llama carry?"}], "use_documents": True}
    asked |= {"max_tokens": most, "temperature": 0, "mode": "stuff"}
    whole = httpx.post(f"{running.api}/chat/completions", json=asked, timeout=120).json()
    assert whole["choices"][0]["finish_reason"] == reason
    streamed = httpx.post(f"{running.api}/chat/completions", json=asked | {"stream": True}, timeout=120).text
    pieces = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert pieces[-1]["choices"][0]["finish_reason"] == reason and "sources" in pieces[-1]


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


def test_an_upload_is_never_taken_for_a_note(tmp_path: Path) -> None:
    nested = b"[" * 2000 + b"]" * 2000
    with serving(None, library_folder=tmp_path) as server:
        answer = httpx.post(f"{server.api}/documents", files={"file": ("nested.json", nested)}, timeout=60).json()
        id = answer["data"][0]["id"]
        ready_document(server, id)
    (tmp_path / "uploads" / "0123456789abcdef.json").write_bytes(nested)  # nor does a spoilt note stop the server
    with serving(None, library_folder=tmp_path) as server:
        assert [document["id"] for document in httpx.get(f"{server.api}/documents").json()["data"]] == [id]


@pytest.mark.parametrize("wrong", [{"files": 5}, {"folders": True}, {"kinds": [None]}, {"files": [{"a": 1}]}])
def test_filters_of_another_shape_are_the_clients_fault(running: Running, wrong: dict[str, Any]) -> None:
    answer = httpx.post(f"{running.api}/search", json={"query": "llama", "filters": wrong}, timeout=60)
    assert answer.status_code == 400 and f"{min(wrong)} are texts" in answer.json()["error"]["message"]
