"""A window with the page, and what a user does there, for its tests."""

from pathlib import Path
from typing import Any


class Watched:
    """A browser's window of its own, with what went wrong in it: errors of scripts, dialogs, requests to elsewhere."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "zh-CN", **options})
        self.url, self.wrong = url, list[str]()
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)
        self.watch(self.page)

    def watch(self, page: Any) -> Any:
        own = (f"{self.url}/", "data:", "blob:")
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", self.dismiss)
        page.on("request", lambda asked: self.wrong.extend([] if asked.url.startswith(own) else [asked.url]))
        page.on("console", lambda told: self.wrong.extend([told.text] if "Content Security" in told.text else []))
        return page

    def dismiss(self, dialog: Any) -> None:
        self.wrong.append(dialog.message)
        dialog.dismiss()

    def open(self) -> Any:
        """The page, once it knows its model and its documents."""
        with self.page.expect_response(lambda reply: "/v1/documents" in reply.url):
            self.page.goto(self.url)
        self.page.locator("#library option").first.wait_for(state="attached")
        return self.page


def upload(page: Any, *paths: Path) -> None:
    """Choose files, and wait until they are ready."""
    page.set_input_files("#files", [str(path) for path in paths])
    for path in paths:
        page.locator("#documents li.ready", has_text=path.name).wait_for()


def ask(page: Any, question: str, mode: str) -> Any:
    """Ask, and wait for the whole answer, which is returned."""
    answer = page.locator(".said.assistant").nth(page.locator(".said.assistant").count())
    begin(page, question, mode)
    answer.locator(".actions").wait_for()
    return answer


def begin(page: Any, question: str, mode: str) -> None:
    """Ask."""
    page.check(f"[name=mode][value={mode}]")
    page.fill("#question", question)
    page.press("#question", "Enter")


def delete(page: Any, name: str) -> None:
    """Delete a document, and say that it is meant."""
    row = page.locator("#documents li", has_text=name)
    row.locator("button.plain").click()
    page.locator("#confirm .danger").click()
    row.wait_for(state="detached")


def marked(page: Any) -> str:
    """The text that the panel highlights."""
    page.locator("#source-text mark").first.wait_for()
    return "".join(page.locator("#source-text mark").all_text_contents())


def plain(text: str) -> str:
    """Without spaces."""
    return "".join(text.split())
