"""Conversations on the page, in a real Chromium: streamed, stopped, repeated, edited, kept, exported; and its looks."""

import json
from pathlib import Path
from typing import Any

import pytest
from pages import Watched, ask, begin
from servers import Running, serving, stands_still, until

STORY = "Write a very long story about a llama."
CONTRAST = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const parts = (color) => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (c) => c.slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (e) => {
        for (; e; e = e.parentElement) {
            const own = parts(getComputedStyle(e).backgroundColor);
            if (own[3] === 255) return own;
        }
        return [255, 255, 255];
    };
    const weak = [];
    const look = (e, style, text) => {
        const [a, b] = [light(parts(style.color)), light(ground(e))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5 || style.opacity < 1) weak.push(`${ratio.toFixed(2)} ${e.className} ${text.slice(0, 30)}`);
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const e = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !e.checkVisibility() || e.closest(":disabled, .hidden, .skip")) continue;
        look(e, getComputedStyle(e), e.textContent);
    }
    for (const e of document.querySelectorAll("[placeholder]")) {
        if (e.checkVisibility()) look(e, getComputedStyle(e, "::placeholder"), e.placeholder);
    }
    return weak;
}"""
UNNAMED = """all => all.filter((e) => e.checkVisibility() && !(
    e.textContent.trim() || e.ariaLabel || e.labels?.length)).map((e) => e.outerHTML)"""


def test_a_stream_is_seen_and_stopped_and_a_reload_keeps_the_conversation(endless: Any, page_server: Running) -> None:
    page = endless
    begin(page, STORY, "chat")
    lengths = set[int]()

    def grows() -> bool:
        lengths.add(len(page.locator(".said.assistant").text_content()))
        return len(lengths) >= 4

    until(grows)
    page.click("#stop")
    page.locator(".said.assistant .note", has_text="已停止").wait_for()
    assert stands_still(page_server.engine), "the server goes on writing"
    said = page.locator(".said.assistant .text").text_content()
    page.reload()
    page.locator("#talks .name[aria-current]", has_text=STORY).wait_for()
    assert page.locator(".said.assistant .text").text_content() == said and len(said) > 10


@pytest.mark.parametrize("leaving", ["reload", "elsewhere"])
def test_what_was_being_written_when_the_page_was_closed_is_told(
    endless: Any, page_server: Running, leaving: str
) -> None:
    page = endless
    begin(page, STORY, "chat")
    page.locator(".said.assistant .text").wait_for()
    if leaving == "reload":
        page.reload()
    else:
        address = page.url
        page.goto("about:blank")
        page.goto(address)
    page.locator(".said.assistant .note", has_text="页面被关闭").wait_for()
    assert page.locator(".said.assistant .error").count() == 0 == page.locator(".said .note", has_text="已停止").count()
    assert stands_still(page_server.engine)


def test_an_answer_goes_on_while_another_conversation_is_shown(endless: Any) -> None:
    page = endless
    begin(page, STORY, "chat")
    page.locator(".said.assistant .text").wait_for()
    page.click("#new")
    page.locator("#send").wait_for()
    assert page.locator(".said").count() == 0
    page.locator("#talks .name.running", has_text=STORY).click()
    page.click("#stop")
    page.locator(".said.assistant .note").wait_for()


def test_answers_are_asked_again_and_questions_edited(page: Any) -> None:
    ask(page, "Say one word.", "chat")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.get_by_role("button", name="重新回答").click()
    assert [m["content"] for m in asked.value.post_data_json["messages"]] == ["Say one word."]
    page.locator(".said.assistant .actions").wait_for()
    page.locator(".said.user").get_by_role("button", name="修改").click()
    page.locator(".editing textarea").fill("Say another word.")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.press(".editing textarea", "Enter")
    assert [m["content"] for m in asked.value.post_data_json["messages"]] == ["Say another word."]
    page.locator(".said.assistant .actions").wait_for()
    assert page.locator(".said").count() == 2
    with page.expect_request("**/v1/chat/completions") as asked:
        begin(page, "And a third.", "chat")
    assert [m["role"] for m in asked.value.post_data_json["messages"]] == ["user", "assistant", "user"]


def test_settings_are_sent_and_kept(page: Any) -> None:
    page.click("#show-settings")
    page.fill("#set-temperature", "0.7")
    page.fill("#set-max_tokens", "5")
    page.fill("#system", "Answer in English.")
    page.get_by_role("button", name="完成").click()
    page.reload()
    page.locator("#model", has_text="smollm2").wait_for()
    with page.expect_request("**/v1/chat/completions") as asked:
        answer = ask(page, "Count from 1 to 100.", "chat")
    body = asked.value.post_data_json
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0.7, 5, "smollm2") and "top_k" not in body
    assert body["messages"][0] == {"role": "system", "content": "Answer in English."}
    assert "最大长度" in answer.text_content()
    page.click("#show-settings")
    page.click("#defaults")
    assert page.input_value("#set-temperature") == "" == page.input_value("#system")


def test_conversations_are_exported_deleted_and_shared_by_tabs(page: Any, tmp_path: Path) -> None:
    answer = ask(page, "Say one word.", "chat").locator(".text").text_content()
    with page.expect_download() as saved:
        page.click("#export")
    text = Path(saved.value.path()).read_text(encoding="utf-8")
    assert text.startswith("## Say one word.\n") and answer.strip()[:10] in text
    with page.expect_download() as saved:
        page.click("#export-all")
    (talk,) = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
    assert [one["role"] for one in talk["said"]] == ["user", "assistant"]
    other = page.context.new_page()
    other.goto(page.url)
    other.locator("#talks .name", has_text="Say one word.").wait_for()
    ask(other, "A second one.", "chat")
    page.locator("#talks .name", has_text="A second one.").wait_for()
    assert page.locator("#talks li").count() == 2
    page.locator("#talks li", has_text="Say one word.").locator("button.plain").click()
    page.locator("#confirm .danger").click()
    other.locator("#talks .name", has_text="Say one word.").wait_for(state="detached")
    other.close()


def test_what_a_model_writes_is_text(page: Any) -> None:
    written = "**bold** <img src=x onerror=alert(1)> [a](javascript:alert(2)) ![b](http://e.org/x.png)\\n\\n1. one"
    piece = f'data: {{"choices":[{{"index":0,"delta":{{"content":"{written}"}},"finish_reason":"stop"}}]}}'
    body = f"{piece}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    answer = ask(page, "Hi", "chat")
    assert answer.locator("strong").text_content() == "bold" and answer.locator("ol li").text_content() == "one"
    assert answer.locator("img, a, script").count() == 0 and "<img src=x onerror" in answer.text_content()


def test_errors_are_told_in_the_users_language(page: Any) -> None:
    begin(page, "有什么？", "auto")
    page.locator("#notice", has_text="还没有文档").wait_for()
    assert page.input_value("#question") == "有什么？"
    full = json.dumps({"error": {"message": "x", "code": "queue_full"}})
    refuse = {"status": 429, "body": full, "headers": {"Retry-After": "0"}}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(**refuse))
    assert "服务器正忙" in ask(page, "Hi", "chat").locator(".error").text_content()
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    assert "没有响应" in ask(page, "Hi", "chat").locator(".error").text_content()


def test_the_keyboard_is_enough(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.locator("#question:focus").wait_for()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    chosen = page.evaluate("document.querySelector('[name=mode]:checked').value")
    assert chosen in ("auto", "extract", "search", "chat") and chosen != "auto"
    page.check("[name=mode][value=chat]")
    page.focus("#talk")
    page.keyboard.press("/")
    page.keyboard.type("Say one word.")
    page.keyboard.press("Enter")
    page.locator(".said.assistant .actions").wait_for()
    assert page.evaluate("document.activeElement.id") == "question"
    assert page.locator("#status").text_content().startswith("回答：")
    page.click("#show-settings")
    page.keyboard.press("Escape")
    page.locator("#show-settings:focus").wait_for()


def test_both_languages_and_themes_can_be_read(page: Any) -> None:
    assert page.get_attribute("html", "lang") == "zh-CN" and page.get_attribute("#send", "aria-label") == "发送"
    ask(page, "Say one word.", "chat")
    page.click("#language")
    assert page.get_attribute("html", "lang") == "en" and page.get_attribute("#send", "aria-label") == "Send"
    grounds = set[str]()
    for _ in range(2):
        grounds.add(page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor"))
        assert page.evaluate(CONTRAST) == []
        page.click("#show-settings")
        page.locator("#set-top_k").wait_for()
        assert page.evaluate(CONTRAST) == []
        page.keyboard.press("Escape")
        page.click("#theme")
    assert len(grounds) == 2
    assert page.locator("button, input, select, textarea").evaluate_all(UNNAMED) == []


def test_a_phone_is_wide_enough(browser: Any, page_server: Running) -> None:
    watched = Watched(browser, page_server.url, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    page = watched.open()
    fits = "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    for language in ("zh-CN", "en"):
        page.locator(f"html[lang='{language}']").wait_for()
        page.locator("#side").wait_for(state="hidden")
        assert page.locator("#send").is_visible() and page.evaluate(fits)
        page.tap("#show-side")
        page.locator("#side").wait_for()
        assert page.evaluate(fits)
        page.tap("#language")
        page.tap("#close-side")
    ask(page, "Say one word.", "chat")
    assert page.evaluate(fits)
    watched.context.close()
    assert not watched.wrong


def test_a_token_is_asked_for_once_and_again_where_it_is_wrong(browser: Any, tmp_path: Path) -> None:
    with serving(None, library_folder=tmp_path / "library", tokens=("right-token",)) as server:
        watched = Watched(browser, server.url)
        page = watched.page
        page.goto(server.url)
        page.fill("#asked-text", "wrong")
        page.press("#asked-text", "Enter")
        page.locator("#asked-problem", has_text="令牌不正确").wait_for()
        page.fill("#asked-text", "right-token")
        page.press("#asked-text", "Enter")
        page.locator("#model", has_text="没有模型").wait_for()
        page.locator("[name=mode][value=chat]:disabled").wait_for()
        page.locator("#library option", has_text="default").wait_for(state="attached")
        assert not page.locator("dialog[open]").count()
        watched.context.close()
        assert not watched.wrong
