"""The host's prompts as token ids: what a template wrote is told from what people, documents and models wrote.

The host renders a conversation to one text, in which a `</s>` of a document looks like the template's. So contents are
marked before it renders: each is put between two characters that no content has. The ids then follow core's rule:
control tokens come only from the template. Knows the host's history, not its modules.
"""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...core.chat import Llama2Template, Message, Role, break_controls, break_markers
from ...core.chat_jinja import encode_rendered
from ...core.errors import HanpacaError
from ...core.model import Model

_SECRET = secrets.token_hex(8)
_ROLES: Mapping[str, Role] = {"s": "system", "u": "user", "a": "assistant"}
_OPEN, _CLOSE = f"\ue000{_SECRET}{{}}\ue001", f"\ue002{_SECRET}\ue003"
_MARK = re.compile(f"\ue000{_SECRET}([sua])\ue001|(\ue002{_SECRET}\ue003)")
_THINKING = re.compile(r"<think>|</think>|<seed:think>|<\|channel\|>")
_BEGIN = "<|BEGIN-VISIBLE-CHAT|>"
"""What the host writes in place of a first message of the user."""


class Part(NamedTuple):
    """A stretch of a prompt: `role` is who wrote it, "" for the template."""

    role: str
    text: str


class Prompt(str):
    """A prompt as the host passes it on, which remembers its parts and what was looked up for it."""

    parts: tuple[Part, ...] = ()
    record: Any = None

    @classmethod
    def of(cls, parts: Sequence[Part], record: Any = None) -> Prompt:
        made = cls("".join(part.text for part in parts))
        made.parts, made.record = tuple(parts), record
        return made


def mark(text: str, role: str) -> str:
    """`text`, trimmed as the host does, between marks; nothing stays nothing."""
    plain = unmarked(text).strip()
    if not plain or plain == _BEGIN:
        return plain
    return f"{_OPEN.format(role)}{plain}{_CLOSE}"


def unmarked(text: str) -> str:
    """The text without marks."""
    return _MARK.sub("", text)


def is_marked(text: str) -> bool:
    """Whether it has marks."""
    return _MARK.search(text) is not None


def is_whole(text: str) -> bool:
    """Whether every mark that opens is closed: the host cut nothing off within a content."""
    return sum(1 if found[1] else -1 for found in _MARK.finditer(text)) == 0


def mark_history(history: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the host's history with all that people, models, tools and files wrote marked."""
    marked = copy.deepcopy(dict(history))
    for entry in marked.get("internal", []):
        entry[0] = mark(entry[0], "s" if len(entry) > 3 and entry[3].get("role") == "system" else "u")
        # The host takes thoughts apart by their tags, and half of a marked text would lose a mark.
        entry[1] = entry[1] if _THINKING.search(entry[1]) else mark(entry[1], "a")
        if len(entry) > 2:
            entry[2] = mark(entry[2], "u")
    for data in marked.get("metadata", {}).values():
        for attachment in data.get("attachments", []):
            if isinstance(attachment.get("content"), str):
                attachment["content"] = mark(attachment["content"], "u")
        for item in data.get("tool_sequence", []):
            if item.get("role") == "tool" and isinstance(item.get("content"), str):
                item["content"] = mark(item["content"], "u")
    return marked


def parts_of(text: str) -> list[Part]:
    """A marked prompt, part by part. What is never closed is content to its end."""
    parts: list[Part] = []
    role, depth, at = "", 0, 0
    for found in _MARK.finditer(text):
        parts.append(Part(role if depth else "", text[at : found.start()]))
        at = found.end()
        if found[1]:
            depth += 1
            role = _ROLES[found[1]] if depth == 1 else role
        else:
            depth = max(0, depth - 1)
    parts.append(Part(role if depth else "", text[at:]))
    return [part for part in parts if part.text]


def spaced(parts: list[Part]) -> list[Part]:
    """The parts of a continued Llama-2 prompt with the space that stands before every answer: the host appends the
    answer's beginning to what the template wrote for a new one."""
    if len(parts) > 1 and parts[-1].role == "assistant" and parts[-2].text.endswith("[/INST]"):
        return [*parts[:-2], Part(parts[-2].role, parts[-2].text + " "), parts[-1]]
    return parts


def ids_of_parts(model: Model, parts: Sequence[Part]) -> list[int]:
    """The ids of a marked prompt: core's own where the text is what core's template writes, else by core's rule for
    other templates. One BOS, for a model that wants one."""
    exact = _ids_of_llama2(model, parts)
    if exact is not None:
        return exact
    contents = [part.text for part in parts if part.role]
    if len(contents) > 999:  # core numbers contents by three digits
        return ids_of_text(model, "".join(part.text for part in parts))

    def render(placeholders: list[str]) -> str:
        waiting = iter(placeholders)
        return "".join(next(waiting) if part.role else part.text for part in parts)

    return _one_bos(model, encode_rendered(render, contents, model.engine))


def ids_of_text(model: Model, text: str, *, bos: bool = True) -> list[int]:
    """The ids of a text that a person wrote as a prompt, control tokens included (the notebook, the API's
    completions). With `bos` one is put in front where the model wants one and the text has none."""
    vocabulary = model.engine.vocabulary
    ids = model.engine.tokenize(text, special=True)
    if bos and vocabulary.add_bos and vocabulary.bos is not None:
        ids = [vocabulary.bos, *ids]
    return _one_bos(model, ids)


def _one_bos(model: Model, ids: list[int]) -> list[int]:
    bos = model.engine.vocabulary.bos
    while bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]
    return ids


def _ids_of_llama2(model: Model, parts: Sequence[Part]) -> list[int] | None:
    """In training each answer was tokenised by itself; only messages say where one begins."""
    try:
        template = model.template
    except HanpacaError:  # a base model
        return None
    if not isinstance(template, Llama2Template) or not parts:
        return None
    messages = [Message(_role(part.role), part.text) for part in parts if part.role]
    continued = bool(messages) and parts[-1].role == "assistant"
    # The beginning of an answer that is continued never went through the host's template.
    written = "".join(break_controls(break_markers(part.text)) if part.role else part.text for part in parts)
    try:
        if template.render(messages, continue_final=continued) != written:
            return None
        return template.encode(messages, model.engine, continue_final=continued)
    except HanpacaError:  # no conversation: the prompt of another template
        return None


def _role(name: str) -> Role:
    return next(role for role in _ROLES.values() if role == name)
