"""What the page does when something goes wrong, in a real Chromium: with what it keeps, the server, the network."""

import time
from pathlib import Path
from typing import Any

import pytest
from pages import Watched, ask, begin, upload
from servers import Running, serving, until

KEEP = """said => {
    const talk = { id: "kept", changed: Date.now(), said };
    localStorage.setItem("hanpaca.talk.kept", JSON.stringify(talk));
    sessionStorage.setItem("hanpaca.shown", "kept");
}"""


def kept(page: Any, **answer: Any) -> Any:
    """The answer as the page shows it, after it was kept and the page opened again."""
    page.evaluate(KEEP, [{"role": "user", "content": "Why?", "mode": "chat"}, {"role": "assistant", **answer}])
    page.reload()
    page.locator("#model", has_text="smollm2").wait_for()
    return page.locator(".said.assistant")


def test_deep_nesting_is_shown_and_ends_somewhere(page: Any) -> None:
    answer = kept(page, content=">" * 8000 + " deep", mode="chat")
    assert "deep" in answer.text_content() and answer.locator("blockquote").count() == 20
    answer = kept(page, content="- " * 3000 + "deep", mode="chat")
    assert "deep" in answer.text_content() and answer.locator("li").count() == 20


def test_an_answer_that_cannot_be_drawn_is_shown_as_text(page: Any) -> None:
    answer = kept(page, content="**Because** of that.", mode="auto", sources=[None])
    assert answer.text_content() == "**Because** of that."
    assert page.locator("#send").is_visible()


# -- too much ----------------------------------------------------------------------------------------------------------


def refusing(times: list[float], tries: int, wait: str) -> Any:
    """A route that answers 429 so many times, notes when it was asked, and then lets everything through."""

    def answer(route: Any) -> None:
        if route.request.method == "POST":
            times.append(time.monotonic())
        if len(times) > tries or route.request.method != "POST":
            route.continue_()
        else:
            route.fulfill(status=429, headers={"Retry-After": wait}, json={"error": {"code": "queue_full"}})

    return answer


def test_what_was_too_much_is_sent_again_when_the_server_says(page: Any, tmp_path: Path) -> None:
    (path := tmp_path / "patient.txt").write_text("A vicuña waits.", encoding="utf-8")
    uploads, questions = list[float](), list[float]()
    page.route("**/v1/documents", refusing(uploads, 2, "1"))
    page.route("**/v1/chat/completions", refusing(questions, 1, "1"))
    upload(page, path)
    assert len(uploads) == 3 and uploads[2] - uploads[1] >= 1 <= uploads[1] - uploads[0]
    assert ask(page, "Say one word.", "chat").locator(".error").count() == 0
    assert len(questions) == 2 and questions[1] - questions[0] >= 1


def test_a_request_is_not_sent_again_for_ever_and_stops_while_it_waits(page: Any) -> None:
    times = list[float]()
    page.route("**/v1/chat/completions", refusing(times, 100, "0"))
    assert "服务器正忙" in ask(page, "Hi", "chat").locator(".error").text_content()
    assert len(times) == 6
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", refusing(times, 100, "20"))
    begin(page, "Hi", "chat")
    until(lambda: len(times) == 7)
    page.click("#stop")
    page.locator(".said.assistant .note", has_text="已停止").wait_for(timeout=10_000)


# -- the token ---------------------------------------------------------------------------------------------------------


def unlock(page: Any, token: str) -> None:
    page.fill("#asked-text", token)
    page.press("#asked-text", "Enter")


def test_the_token_is_asked_for_until_it_is_given(browser: Any, tmp_path: Path) -> None:
    with serving(None, library_folder=tmp_path / "library", tokens=("right",)) as server:
        watched = Watched(browser, server.url)
        page = watched.page
        page.goto(server.url)
        for _ in range(3):
            page.locator("#asked[open] #asked-text:focus").wait_for()
            page.keyboard.press("Escape")
        unlock(page, " ")
        assert not page.locator("#asked-no").is_visible()
        unlock(page, "right")
        page.locator("#library option", has_text="default").wait_for(state="attached")
        page.click("#new-library")
        page.click("#asked-no")  # what need not be told can be left
        page.locator("#asked").wait_for(state="hidden")
        watched.context.close()
        assert not watched.wrong


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_an_upload_asks_for_the_token_too(browser: Any, tmp_path: Path, size: int) -> None:
    (path := tmp_path / "wool.txt").write_text("Alpacas give wool." + "\n" * size, encoding="utf-8")
    settings = {"library_folder": tmp_path / "library"}
    with serving(None, tokens=("first",), **settings) as server:
        watched = Watched(browser, server.url)
        page = watched.page
        page.goto(server.url)
        unlock(page, "first")
        page.locator("#library option", has_text="default").wait_for(state="attached")
    with serving(None, tokens=("second",), port=int(server.url.rpartition(":")[2]), **settings):
        page.set_input_files("#files", str(path))
        page.locator("#asked-problem", has_text="令牌不正确").wait_for()
        unlock(page, "second")
        page.locator("#documents li.ready", has_text="wool.txt").wait_for()
        assert page.locator("#sending li").count() == 0
        watched.context.close()
        assert not watched.wrong


# -- the network -------------------------------------------------------------------------------------------------------


def test_a_server_that_goes_away_while_it_answers_is_told(endless: Any, page_server: Running) -> None:
    page = endless
    begin(page, "Write a very long story about a llama.", "chat")
    page.locator(".said.assistant .text").wait_for()
    for connection in list(page_server.server.server_state.connections):
        connection.transport.abort()
    answer = page.locator(".said.assistant")
    answer.locator(".error", has_text="没有响应").wait_for()
    assert answer.locator(".text").text_content()  # what had come is kept


def test_a_stream_that_ends_before_its_end_is_told(page: Any) -> None:
    piece = 'data: {"choices":[{"index":0,"delta":{"content":"Half"}}]}\n\n'
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=piece, content_type="text/event-stream"))
    answer = ask(page, "Hi", "chat")
    assert answer.locator(".text").text_content() == "Half" and "没有响应" in answer.locator(".error").text_content()
