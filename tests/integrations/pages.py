"""What a user does on the page, for its tests."""

from pathlib import Path
from typing import Any


def upload(page: Any, *paths: Path) -> None:
    """Choose files, and wait until they are ready."""
    page.set_input_files("#files", [str(path) for path in paths])
    for path in paths:
        page.locator("#documents li.ready", has_text=path.name).wait_for()


def ask(page: Any, question: str, mode: str) -> Any:
    """Ask, and wait for the whole answer, which is returned."""
    begin(page, question, mode)
    answer = page.locator(".said.assistant").last
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
