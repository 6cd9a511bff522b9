"""Documents on the page, in a real Chromium: uploaded, asked, cited, shown at the quotation, deleted; never run."""

from pathlib import Path
from typing import Any

import httpx
from making import chinese, pdf
from pages import ask, delete, marked, plain, upload
from servers import Running, until

NAME = "<img src=x onerror=alert(1)>.txt"
TEXT = "羊驼生活在安第斯山脉，海拔四千米。𠮷\n\n成年羊驼可以驮运三十公斤的货物。\n\n<script>alert(2)</script>\n"
QUESTION = "成年羊驼可以驮运多少公斤？"
QUOTED = "成年羊驼可以驮运三十公斤的货物。"
MARKDOWN = """# Alpacas

<img src=x onerror=alert(3)> They hum. ![alt](https://example.org/a.png) [bad](javascript:alert(4))

| animal | load |
|---|---|
| llama | 30 kg |

- A grown llama carries *thirty kilograms* of goods for twenty kilometres.
- Alpacas are kept for their **wool**.
"""
PAGES = (
    ["羊驼生活在安第斯山脉，", "海拔四千米。"],
    ["骆马吃草。成年骆马每天可以", "行走二十五公里。它们住在高原。"],
)


def test_an_answer_cites_and_the_source_shows_the_quoted_text(page: Any, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text(TEXT, encoding="utf-8")
    upload(page, path)
    answer = ask(page, QUESTION, "auto")
    assert QUOTED in answer.text_content() and "smollm2" in answer.locator(".note").text_content()
    answer.locator(".cite").first.click()
    assert marked(page) == QUOTED  # also after a character that JavaScript counts twice
    assert "<script>alert(2)</script>" in page.locator("#source-text").text_content()
    assert page.locator("#source-name").text_content() == NAME
    assert page.locator("main img, main script, #source img, #source script, #side img").count() == 0
    delete(page, NAME)


def test_a_chinese_pdf_is_shown_at_the_page_of_the_quotation(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "羊驼.pdf"
    path.write_bytes(pdf([chinese(*lines) for lines in PAGES], font="gb1"))
    upload(page, path)
    answer = ask(page, "成年骆马每天可以行走多少公里？", "extract")
    with page.expect_response(lambda reply: "/page?" in reply.url) as drawn:
        answer.locator(".cite").first.click()
    page.locator("#source-page .spot").first.wait_for()
    told, quoted = drawn.value.json(), marked(page)
    assert told["page"] == 2 and "二十五公里" in quoted and plain(told["marked"]) == plain(quoted)
    assert page.locator("#source-page img").evaluate("img => img.decode().then(() => img.naturalWidth > 500)")
    boxes = page.locator("#source-page .spot").evaluate_all("all => all.map(e => e.getBoundingClientRect().width)")
    assert len(boxes) == 2 and min(boxes) > 20, "a line of the quotation has no box to be seen"
    assert page.locator("#source-page .spot").first.evaluate(
        "e => { const box = e.getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight; }"
    )
    page.click("#source-page .turning button >> nth=0")
    page.locator("#source-page .turning", has_text="第 1 页，共 2 页").wait_for()
    assert page.locator("#source-page .spot").count() == 0
    page.click("#close-source")
    page.locator("#documents button.name", has_text="羊驼.pdf").click()  # a document opens at its beginning
    page.locator("#source-page .turning", has_text="第 1 页").wait_for()
    page.locator("#source-text", has_text="安第斯").wait_for()
    delete(page, "羊驼.pdf")


def test_markdown_is_rendered_and_its_quotation_marked(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "alpacas.md"
    path.write_text(MARKDOWN, encoding="utf-8")
    upload(page, path)
    answer = ask(page, "What does a grown llama carry?", "extract")
    answer.locator(".cite").first.click()
    assert "thirty kilograms" in marked(page)
    source = page.locator("#source-text .text")
    assert source.locator("h3.level-1").text_content() == "Alpacas" and source.locator("td").count() == 2
    assert source.locator("mark em, em mark").first.text_content() == "thirty kilograms"
    assert source.locator("img, a, script").count() == 0 and "<img src=x" in source.text_content()
    found = ask(page, "alpaca wool", "search")
    assert "wool" in found.locator(".passage").first.text_content()
    found.locator(".passage .source").first.click()
    assert "wool" in marked(page)
    delete(page, "alpacas.md")


def test_a_source_opens_from_the_library_it_came_from(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "law.txt"
    path.write_text("合同应当采用书面形式。", encoding="utf-8")
    page.click("#new-library")
    page.fill("#asked-text", "法律")
    page.click("#asked-yes")
    until(lambda: page.input_value("#library") == "法律")
    upload(page, path)
    answer = ask(page, "合同应当采用什么形式？", "extract")
    page.select_option("#library", index=0)
    page.locator("#documents li", has_text="law.txt").wait_for(state="detached")
    answer.locator(".cite").first.click()
    assert "书面形式" in marked(page)
    page.reload()
    page.locator(".said.assistant .cite").first.click()
    assert "书面形式" in marked(page)


def test_documents_that_another_client_added_are_found(page: Any, page_server: Running) -> None:
    page.click("#new-library")
    page.fill("#asked-text", "共用")
    page.click("#asked-yes")
    until(lambda: page.input_value("#library") == "共用")
    page.locator("#no-documents").wait_for()
    file = {"file": ("shared.txt", "大羊驼每天喝两升水。".encode())}
    (told,) = httpx.post(f"{page_server.api}/documents", data={"library": "共用"}, files=file).json()["data"]
    url = f"{page_server.api}/documents/{told['id']}?library=共用"
    until(lambda: httpx.get(url).json()["status"] == "ready")
    assert "两升水" in ask(page, "大羊驼每天喝多少水？", "extract").text_content()
    page.locator("#documents li.ready", has_text="shared.txt").wait_for()
    assert not page.locator("#notice p").count()


def test_a_library_is_deleted_when_that_is_confirmed(page: Any, page_server: Running, tmp_path: Path) -> None:
    (path := tmp_path / "old.txt").write_text("旧的合同已经失效。", encoding="utf-8")
    page.click("#new-library")
    page.fill("#asked-text", "旧合同")
    page.click("#asked-yes")
    until(lambda: page.input_value("#library") == "旧合同")
    upload(page, path)
    folder = page_server.app.state.service.libraries.folder("旧合同")
    page.click("#delete-library")
    assert "旧合同" in page.locator("#confirm-text").text_content()
    page.locator("#confirm button").first.click()  # not meant
    page.locator("#documents li.ready", has_text="old.txt").wait_for()
    assert folder.exists()
    page.click("#delete-library")
    page.locator("#confirm .danger").click()
    page.locator("#documents li", has_text="old.txt").wait_for(state="detached")
    assert "旧合同" not in page.locator("#library").text_content() and not folder.exists()


def test_each_file_tells_how_far_it_is_and_why_it_fails(page: Any, tmp_path: Path) -> None:
    texts = [tmp_path / f"part {number}.txt" for number in range(3)]
    for number, path in enumerate(texts):
        path.write_text(f"Llama {number} eats grass.")
    (broken := tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (wrong := tmp_path / "program.exe").write_bytes(b"MZ")
    seen, streams = list[str](), list[str]()
    page.on(
        "request", lambda asked: streams.extend([asked.url] if asked.url.partition("?")[0].endswith("events") else [])
    )
    page.expose_function("seen", lambda text: seen.append(text))
    page.evaluate(
        "() => new MutationObserver(() => { for (const bar of document.querySelectorAll('progress'))"
        " seen(bar.getAttribute('aria-label') + '|' + bar.parentElement.textContent); })"
        ".observe(document.getElementById('side'), { childList: true, subtree: true })"
    )
    page.set_input_files("#files", [str(path) for path in (*texts, broken, wrong)])
    refused = page.locator("#sending li", has_text="program.exe")
    refused.locator(".error", has_text="cannot be read").wait_for()
    refused.locator("button").click()
    page.locator("#documents li.failed", has_text="broken.pdf").locator(".error").wait_for()
    for path in texts:
        page.locator("#documents li.ready", has_text=path.name).wait_for()
    told = {line.split("|")[0] for line in seen}
    assert {f"{path.name} 的进度" for path in texts} <= told
    assert all("/documents/events" in url for url in streams)  # one for all: a browser opens few to one server
    assert page.locator("#documents progress").count() == 0 == page.locator("#sending li").count()


def test_files_are_dropped_anywhere(page: Any, page_server: Running) -> None:
    drop = """name => {
        const data = new DataTransfer();
        data.items.add(new File(["原驼在清晨吃草。"], name, { type: "text/plain" }));
        const told = kind => document.querySelector("main").dispatchEvent(
            new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
        told("dragover");
        const shown = document.getElementById("drop").checkVisibility();
        told("drop");
        return shown && !document.getElementById("drop").checkVisibility();
    }"""
    assert page.evaluate(drop, "dropped.txt")
    page.locator("#documents li.ready", has_text="dropped.txt").wait_for()
    assert "原驼" in ask(page, "原驼什么时候吃草？", "extract").text_content()
    delete(page, "dropped.txt")
    assert not list(page_server.app.state.service.settings.library_folder.glob("uploads/*.txt.part"))
