"""The page in a real Chromium: upload, ask, cite, stop, reload; and nothing from outside runs or is asked for."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from making import chinese, pdf
from servers import Running, serving

import hanpaca

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (apt-get install chromium)")
TEXT = "羊驼生活在安第斯山脉，海拔四千米。\n\n成年羊驼可以驮运三十公斤的货物。\n\n<script>alert(2)</script>\n"
QUESTION = "成年羊驼可以驮运多少公斤？"
WAIT = 60_000


@pytest.fixture(scope="module")
def running(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("page")
    with serving(hanpaca.load("smollm2", threads=1), library_folder=folder / "library") as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, running: Running) -> Iterator[Any]:
    """The page in Chinese; it fails where a script fails, a dialog opens, or another host is asked."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="zh-CN")
    page, wrong = context.new_page(), list[str]()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    own = (f"{running.url}/", "data:", "blob:")

    def dismiss(dialog: Any) -> None:
        wrong.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.on("request", lambda asked: wrong.extend([] if asked.url.startswith(own) else [asked.url]))
    page.goto(running.url)
    page.wait_for_selector("#model:not(:empty)")
    yield page
    context.close()
    assert not wrong


def upload(page: Any, path: Path) -> None:
    count = page.locator("#documents li").count()
    page.set_input_files("#files", [str(path)])
    page.locator("#documents li").nth(count).wait_for(timeout=WAIT)
    page.wait_for_selector("#documents li:last-child span.quiet:empty", state="attached", timeout=WAIT)


def ask(page: Any, question: str, mode: str) -> None:
    page.select_option("#mode", mode)
    page.fill("#question", question)
    page.press("#question", "Enter")


def test_an_answer_cites_and_the_source_shows_the_quoted_text(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror=alert(1)>.txt"
    path.write_text(TEXT, encoding="utf-8")
    upload(page, path)
    ask(page, QUESTION, "auto")
    page.locator(".said.assistant .cite").first.click(timeout=WAIT)
    assert page.locator("#source-text mark").text_content(timeout=WAIT) == "成年羊驼可以驮运三十公斤的货物。"
    assert "<script>" in page.locator("#source-text").text_content()
    assert "onerror" in page.locator("#source-name").text_content()
    assert page.locator("main img, main script, #source img, #source script, aside img").count() == 0
    page.click("#close")
    ask(page, "羊驼 海拔", "search")
    assert "四千米" in page.locator(".passage").first.text_content(timeout=WAIT)
    page.locator("#documents button").first.click()
    page.locator("#documents li").wait_for(state="detached", timeout=WAIT)


def test_a_chinese_pdf_is_shown_at_the_page_of_the_quotation(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "羊驼.pdf"
    first, second = (
        ["羊驼生活在安第斯山脉，", "海拔四千米。"],
        ["骆马吃草。成年骆马每天可以", "行走二十五公里。它们住在高原。"],
    )
    path.write_bytes(pdf([chinese(*first), chinese(*second)], font="gb1"))
    upload(page, path)
    ask(page, "成年骆马每天可以行走多少公里？", "extract")
    page.locator(".said.assistant .cite", has_text="[1]").first.wait_for(timeout=WAIT)
    with page.expect_response(lambda reply: "/page?" in reply.url) as drawn:
        page.locator(".said.assistant .cite").first.click()
    page.locator("#source-page .spot").first.wait_for(timeout=WAIT)
    told, quoted = drawn.value.json(), page.locator("#source-text mark").text_content()
    assert told["page"] == 2 and "二十五公里" in quoted
    assert "".join(told["marked"].split()) == "".join(quoted.split())
    assert page.locator("#source-page img").evaluate("img => img.complete && img.naturalWidth > 500")
    boxes = page.locator("#source-page .spot").evaluate_all("all => all.map(e => e.getBoundingClientRect().width)")
    assert len(boxes) == 2 and min(boxes) > 20, "a line of the quotation has no box to be seen"
    page.locator("#documents li", has_text="羊驼.pdf").locator("button").click()
    page.locator("#documents li", has_text="羊驼.pdf").wait_for(state="detached", timeout=WAIT)


def test_a_stream_can_be_stopped_and_a_reload_keeps_the_conversation(page: Any) -> None:
    story = "Write a very long story about a llama."
    ask(page, story, "chat")
    page.wait_for_selector("#stop:visible")
    page.locator(".said.assistant", has_text="llama").wait_for(timeout=WAIT)
    page.click("#stop")
    page.wait_for_selector(".said.assistant .note", timeout=WAIT)
    said = page.locator(".said.assistant").text_content()
    page.reload()
    page.wait_for_selector("#model:not(:empty)")
    assert page.locator(".said.assistant").text_content() == said
    page.click("#edit")
    assert page.input_value("#question") == story and page.locator(".said").count() == 0


def test_both_languages_and_themes(page: Any) -> None:
    assert page.locator("#send").text_content() == "发送" and page.get_attribute("html", "lang") == "zh-CN"
    page.click("#language")
    assert page.locator("#send").text_content() == "Send" and page.get_attribute("html", "lang") == "en"
    before = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    page.click("#theme")
    assert page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") != before
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.locator("html").evaluate("html => html.scrollWidth <= html.clientWidth")
    unnamed = "button, input, select, textarea"
    assert not page.locator(unnamed).evaluate_all(
        "all => all.filter(e => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map(e => e.id)"
    )
