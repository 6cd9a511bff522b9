"""What the page does when something goes wrong, in a real Chromium: what it keeps, the server, the token, the network."""

from typing import Any

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
