"""Instruction and preference files → conversations, each with its place in the file. Knows no model.

Formats: Alpaca (`instruction`, `input`, `output`), ShareGPT (`conversations` of `from` and `value`), messages (`role`
and `content`); for preferences any of them with `chosen` and `rejected` in place of the last answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..chat import Message, Role
from ..encodings import decode
from ..errors import BadInput, UnreadableDocument

BadRows = Literal["stop", "skip"]
_ROLES: Mapping[str, Role] = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "bot": "assistant",
}  # fmt: skip
_QUESTION, _ANSWER = ("instruction", "prompt", "question"), ("output", "response", "completion", "answer")
_LISTS = ("messages", "conversations", "conversation")
_LOST = "\ufffd"
"""What stands for bytes that could not be decoded."""
_SHOWN = 5
Made = TypeVar("Made")


@dataclass(frozen=True)
class Place:
    """Where a row begins."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


@dataclass(frozen=True)
class Conversation:
    """A conversation that ends with an answer."""

    messages: tuple[Message, ...]
    place: Place


@dataclass(frozen=True)
class Preference:
    """A conversation that ends with a question, and two answers of which the first is better."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    place: Place


class _BadRow(Exception):
    """What is wrong with a row, as a phrase."""


@dataclass
class Refused:
    """The rows that were left out: place and reason."""

    rows: list[tuple[Place, str]]

    def lines(self) -> list[str]:
        """All of them."""
        return [f"{place}: {reason}" for place, reason in self.rows]

    def text(self) -> str:
        """The first of them, one in a line."""
        return first_lines(self.lines())


def first_lines(lines: Sequence[str]) -> str:
    """Some of many lines, and how many more there are."""
    more = len(lines) - _SHOWN
    return "\n".join([*lines[:_SHOWN], *([f"… and {more} more"] if more > 0 else [])])


def conversations(files: Sequence[Path], bad_rows: BadRows = "stop") -> tuple[list[Conversation], Refused]:
    """Every row of the files as a conversation. Raises `BadInput` for bad rows unless they are to be skipped."""
    return _read(files, bad_rows, lambda row, place: Conversation(_answered(row), place))


def preferences(files: Sequence[Path], bad_rows: BadRows = "stop") -> tuple[list[Preference], Refused]:
    """Every row of the files as a pair of answers. Raises `BadInput` for bad rows unless they are to be skipped."""
    return _read(files, bad_rows, _preference)


def _read(
    files: Sequence[Path], bad_rows: BadRows, make: Callable[[dict[str, Any], Place], Made]
) -> tuple[list[Made], Refused]:
    found: list[Made] = []
    refused = Refused([])
    for file in files:
        for line, row in _rows(file):
            place = Place(file, line)
            try:
                if isinstance(row, _BadRow):
                    raise row
                if not isinstance(row, dict):
                    raise _BadRow("no object")
                found.append(make(row, place))
            except _BadRow as error:
                refused.rows.append((place, str(error)))
    if refused.rows and bad_rows == "stop":
        raise BadInput(
            f"{len(refused.rows)} rows cannot be trained on:\n{refused.text()}\n",
            "Mend them, or leave them out with --bad-rows skip.",
        )
    if not found:
        raise BadInput(
            f"There is nothing to train on in {', '.join(map(str, files))}.", "Give files with rows in them."
        )
    return found, refused


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """(line, row) of a JSON array, or of JSON lines; a `_BadRow` for what is none, or has lost bytes in reading."""
    if not file.is_file():
        raise BadInput(f"{file} does not exist.", "Give .json or .jsonl files.")
    try:
        found = decode(file.read_bytes())
    except UnreadableDocument as error:
        raise BadInput(f"{file}: {error.problem}", error.hint) from error
    damaged = _BadRow(f"it holds bytes that are no {found.encoding}") if found.warnings else None
    if found.text.lstrip().startswith("["):
        for number, row, written in _array(file, found.text):
            yield number, damaged if damaged and _LOST in written else row
        return
    for number, line in enumerate(found.text.split("\n"), 1):
        if damaged and _LOST in line:
            yield number, damaged
        elif line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, _BadRow(f"no JSON ({error})")


def _array(file: Path, text: str) -> Iterator[tuple[int, Any, str]]:
    """(line, row, the row as it is written)."""
    decoder, blank = json.JSONDecoder(), " \t\r\n"
    at, line, counted = text.index("[") + 1, 1, 0
    while True:
        while at < len(text) and text[at] in blank + ",":
            at += 1
        if text[at : at + 1] == "]":
            if rest := text[at + 1 :].strip():
                line += text.count("\n", counted, text.index(rest[0], at + 1))
                raise BadInput(f"{file} goes on after its array, in line {line}.", "Make it one array, or JSON lines.")
            return
        line += text.count("\n", counted, at)
        counted = at
        try:
            row, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{file} is broken JSON after line {line}: {error}.", "Mend the file.") from error
        yield line, row, text[at:end]
        at = end


def _answered(row: dict[str, Any]) -> tuple[Message, ...]:
    if "chosen" in row and "rejected" in row:
        raise _BadRow("it is a pair of answers, which hanpaca prefer takes")
    messages = _messages(row, answered=True)
    if messages[-1].role != "assistant":
        raise _BadRow("the conversation does not end with an answer")
    for message in messages:
        if message.role == "assistant" and not message.content.strip():
            raise _BadRow("an answer is empty")
    return messages


def _messages(row: dict[str, Any], *, answered: bool) -> tuple[Message, ...]:
    system = [Message("system", _text(row, "system"))] if row.get("system") else []
    listed = next((row[name] for name in _LISTS if name in row), None)
    if listed is None and not answered and isinstance(row.get("prompt"), list):
        listed = row["prompt"]
    if listed is not None:
        if not isinstance(listed, list) or not listed:
            raise _BadRow("its list of messages is empty or no list")
        return (*system, *(_message(entry) for entry in listed))
    question = next((name for name in _QUESTION if name in row), None)
    if question is None:
        raise _BadRow(f"it has none of: messages, conversations, {', '.join(_QUESTION)}")
    asked = _text(row, question)
    if row.get("input"):
        asked += f"\n{_text(row, 'input')}"
    if not asked.strip():
        raise _BadRow("the instruction is empty")
    history = [Message(role, text) for role, text in _history(row)]
    messages = [*system, *history, Message("user", asked)]
    if answered:
        answer = next((name for name in _ANSWER if name in row), None)
        if answer is None:
            raise _BadRow(f"it has none of: {', '.join(_ANSWER)}")
        messages.append(Message("assistant", _text(row, answer)))
    return tuple(messages)


def _history(row: dict[str, Any]) -> Iterator[tuple[Role, str]]:
    history = row.get("history") or []
    for turn in history if isinstance(history, list) else [history]:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise _BadRow("its history is no list of [question, answer]")
        yield "user", _whole(turn[0])
        yield "assistant", _whole(turn[1])


def _message(entry: Any) -> Message:
    if not isinstance(entry, dict):
        raise _BadRow("a message is no object")
    role = entry.get("role", entry.get("from"))
    text = entry.get("content", entry.get("value"))
    if not isinstance(role, str) or role not in _ROLES:
        raise _BadRow(f"{role!r} is not a role; valid: {', '.join(_ROLES)}")
    if not isinstance(text, str):
        raise _BadRow("a message has no text")
    return Message(_ROLES[role], _whole(text))


def _text(row: dict[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise _BadRow(f"its {name} is no text")
    return _whole(row[name])


def _whole(text: str) -> str:
    """The text, unless it holds half of a character: a surrogate alone, as a cut emoji leaves it."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise _BadRow("its text holds half of a character (a surrogate)")
    return text


def _preference(row: dict[str, Any], place: Place) -> Preference:
    before, chosen = _judged(row, "chosen")
    also_before, rejected = _judged(row, "rejected")
    messages = _asked(row, [talk for talk in (before, also_before) if talk])
    if messages[-1].role != "user":
        raise _BadRow("there is no question before the answers")
    if chosen == rejected:
        raise _BadRow("both answers are the same")
    return Preference(messages, chosen, rejected, place)


def _judged(row: dict[str, Any], name: str) -> tuple[list[Message], str]:
    """The answer under a name, and what stands before it there: TRL's form is the whole conversation."""
    if name not in row:
        raise _BadRow(f"it has no {name}")
    value = row[name]
    *before, last = value if isinstance(value, list) and value else [value]
    answer = Message("assistant", _whole(last)) if isinstance(last, str) else _message(last)
    if answer.role != "assistant":
        raise _BadRow(f"its {name} ends with a message of the {answer.role}, which is no answer")
    if not answer.content.strip():
        raise _BadRow(f"its {name} answer is empty")
    return [_message(entry) for entry in before], answer.content


def _asked(row: dict[str, Any], before: list[list[Message]]) -> tuple[Message, ...]:
    """What both answers follow: what the row asks, and what stands before the answers. All that is there must agree."""
    talks: list[list[Message]] = [*before]
    if not before or any(name in row for name in (*_LISTS, *_QUESTION)):
        talks.append(list(_messages(row, answered=False)))
    elif row.get("system"):
        talks.append([Message("system", _text(row, "system")), *(m for m in before[0] if m.role != "system")])
    if len({tuple((m.role, m.content.strip()) for m in talk if m.role != "system") for talk in talks}) > 1:
        raise _BadRow("its answers follow different questions")
    if len({talk[0].content for talk in talks if talk[0].role == "system"}) > 1:
        raise _BadRow("it has different system prompts")
    longest = max(talks, key=len)  # the one with a system prompt, where there is any
    return tuple(longest)
