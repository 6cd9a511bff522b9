"""The page on a phone, by keyboard and for screen readers, in a real Chromium."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import Watched, ask, delete, upload
from servers import Running, until


@pytest.fixture
def phone(browser: Any, page_server: Running) -> Iterator[Any]:
    """The page on a narrow screen that is touched."""
    watched = Watched(browser, page_server.url, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    yield watched.open()
    watched.context.close()
    assert not watched.wrong


def test_beside_the_menu_of_a_phone_a_tap_only_closes_it(phone: Any) -> None:
    box = phone.locator("#show-settings").bounding_box()
    phone.tap("#show-side")
    phone.locator("#side").wait_for()
    phone.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    phone.locator("#side").wait_for(state="hidden")
    phone.locator("#show-side:focus").wait_for()
    assert not phone.locator("dialog[open]").count()
    phone.tap("#show-settings")
    phone.locator("#settings").wait_for()


def test_behind_the_menu_of_a_phone_nothing_is_reached(phone: Any) -> None:
    phone.tap("#show-side")
    phone.locator("#close-side:focus").wait_for()
    outside = "() => !document.getElementById('side').contains(document.activeElement) && document.activeElement.id"
    for _ in range(15):
        phone.keyboard.press("Tab")
        assert phone.evaluate(outside) in (False, "")  # "": the window itself, between the last button and the first
    phone.set_viewport_size({"width": 1200, "height": 800})  # it is turned: there is no menu to close any more
    phone.locator("#backdrop").wait_for(state="hidden")
    phone.locator("#question").click()
    phone.locator("#question:focus").wait_for()


def test_a_document_opened_from_the_menu_of_a_phone_is_seen(phone: Any, tmp_path: Path) -> None:
    (path := tmp_path / "small.txt").write_text("A small screen.", encoding="utf-8")
    phone.tap("#show-side")
    upload(phone, path)
    phone.locator("#documents button.name", has_text="small.txt").tap()
    phone.locator("#side").wait_for(state="hidden")
    phone.locator("#source-text", has_text="A small screen.").wait_for()
    phone.tap("#close-source")
    phone.locator("#show-side:focus").wait_for()
    phone.tap("#show-side")
    delete(phone, "small.txt")


def test_a_row_that_progresses_keeps_the_focus(page: Any, tmp_path: Path) -> None:
    (path := tmp_path / "long.txt").write_text("\n\n".join(f"Llama {n} eats grass." for n in range(800)))
    page.set_input_files("#files", str(path))
    page.locator("#documents li.embedding progress").wait_for()
    page.evaluate("""() => {
        window.told = new Set();
        const row = document.querySelector("#documents li.embedding");
        const note = () => told.add(row.querySelector(".about > span").textContent);
        new MutationObserver(note).observe(row, { childList: true, subtree: true });
        row.querySelector(".plain").focus();
    }""")
    until(lambda: page.evaluate("() => told.size > 0"))
    page.locator("#documents li.ready", has_text="long.txt").wait_for()
    page.locator("#documents li.ready .plain:focus").wait_for()
    page.locator("#status", has_text="long.txt: ").wait_for(state="attached")
    with page.expect_response("**/v1/documents?*"):
        page.dispatch_event("#library", "change")
    page.locator("#documents li.ready .plain:focus").wait_for()
    delete(page, "long.txt")


def test_the_end_of_an_answer_and_what_fails_is_announced(page: Any, tmp_path: Path) -> None:
    status = page.locator("#status[aria-live=polite]")
    answer = ask(page, "Say one word.", "chat").locator(".text").text_content()
    assert status.text_content().startswith("回答：") and answer[:10] in status.text_content()
    page.route("**/v1/chat/completions", lambda route: route.abort())
    answer = ask(page, "Say another one.", "chat")
    assert status.text_content() == "回答失败：服务器没有响应。它在运行吗？"
    assert answer.locator("[role=alert]").count() == 0  # what failed long ago is not told again when it is shown
    (path := tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    page.set_input_files("#files", str(path))
    page.locator("#status", has_text="broken.pdf: 失败").wait_for(state="attached")
    delete(page, "broken.pdf")
