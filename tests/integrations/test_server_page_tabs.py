"""Two tabs with the same conversation, in a real Chromium: none loses what the other one keeps."""

from typing import Any

from pages import ask, begin
from servers import until

STORY = "Write a very long story about a llama."


def beside(page: Any) -> Any:
    """Another tab, with the newest conversation."""
    other = page.context.new_page()
    other.goto(page.url)
    other.locator("#model", has_text="smollm2").wait_for()
    other.locator("#talks .name").first.click()
    return other


def questions(page: Any) -> list[str]:
    return page.locator(".said.user .bubble").all_text_contents()


def test_each_tab_goes_on_from_what_the_other_one_kept(page: Any) -> None:
    ask(page, "The first.", "chat")
    other = beside(page)
    ask(other, "The second.", "chat")
    page.locator(".said.assistant").nth(1).locator(".actions").wait_for()
    assert questions(page) == ["The first.", "The second."]
    ask(page, "The third.", "chat")
    assert questions(beside(page)) == questions(page) == ["The first.", "The second.", "The third."]


def test_what_is_being_edited_outlasts_what_the_other_tab_adds(page: Any) -> None:
    ask(page, "The first.", "chat")
    other = beside(page)
    page.locator(".said.user").get_by_role("button", name="修改").click()
    page.fill(".editing textarea", "The first one.")
    ask(other, "The second.", "chat")
    page.locator(".said.user .bubble", has_text="The second.").wait_for()
    assert page.locator(".editing textarea:focus").input_value() == "The first one."
    page.press(".editing textarea", "Enter")
    page.locator(".said.user .bubble", has_text="The first one.").wait_for()
    other.locator(".said.user .bubble", has_text="The first one.").wait_for()
    assert questions(page) == questions(other) == ["The first one."]


def test_an_answer_is_seen_growing_in_the_other_tab_which_waits_for_its_end(endless: Any) -> None:
    page = endless
    begin(page, STORY, "chat")
    page.locator(".said.assistant .text").wait_for()
    other = beside(page)
    answer = other.locator(".said.assistant")
    answer.locator(".text").wait_for()
    other.focus("#talks .name")
    length = len(answer.text_content())
    until(lambda: len(answer.text_content()) > length)
    other.locator("#talks .name:focus").wait_for()
    begin(other, "Another question.", "chat")
    other.locator("#notice", has_text="另一个标签页").wait_for()
    assert questions(other) == [STORY] and other.input_value("#question") == "Another question."
    page.click("#stop")
    answer.locator(".note", has_text="已停止").wait_for()
    begin(other, "Another question.", "chat")
    page.locator(".said.user .bubble", has_text="Another question.").wait_for()
    assert questions(page) == [STORY, "Another question."]


def test_what_one_tab_deletes_the_other_one_shows_no_longer(page: Any) -> None:
    ask(page, "The first.", "chat")
    other = beside(page)
    other.locator("#talks li button.plain").click()
    other.locator("#confirm .danger").click()
    page.locator("#welcome").wait_for()
    assert questions(page) == [] and page.locator("#talks li").count() == 0


def test_the_other_tab_goes_on_where_one_was_closed_amid_an_answer(endless: Any) -> None:
    page = endless
    begin(page, STORY, "chat")
    page.locator(".said.assistant .text").wait_for()
    other = beside(page)
    page.goto("about:blank")
    other.locator(".said.assistant .note", has_text="页面被关闭").wait_for()
    ask(other, "Another question.", "chat")
    assert questions(other) == [STORY, "Another question."]
