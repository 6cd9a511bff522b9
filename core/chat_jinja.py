"""Chat templates that models carry as Jinja text, under the same rule: content never poses as the template.

The template is rendered in a sandbox with placeholders where contents belong. Only what the template itself wrote is
searched for control tokens; then each stretch of text between two control tokens, template and content together, is
tokenised as plain text: the ids that training saw, and no control token that the template did not write.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from .chat import Message, Tokenizer, break_markers, normalized
from .errors import BadModelFile


class _Refused(Exception):
    """The template called `raise_exception`."""


@dataclass(frozen=True)
class JinjaTemplate:
    """A template in a model's metadata. `system_prompt` None leaves the choice to the template; "" is none."""

    source: str
    system_prompt: str | None = None
    name: str = "metadata"

    def encode(self, messages: Sequence[Message], tokenizer: Tokenizer, *, continue_final: bool = False) -> list[int]:
        plain = normalized(messages, continue_final=continue_final)
        if continue_final and not plain[-1].content:  # begun with nothing: an answer like any other
            plain, continue_final = plain[:-1], False
        if self.system_prompt is not None and plain[0].role != "system":
            plain.insert(0, Message("system", self.system_prompt))
        attempts = [plain]
        if plain[0].role == "system":
            # Templates without a system role: the usual way is to open the first user message with it.
            opening = f"{plain[0].content}\n\n" if plain[0].content else ""
            attempts.append([Message("user", opening + plain[1].content), *plain[2:]])
        for attempt in attempts:
            with suppress(_Refused):
                marks, rendered = self._render(attempt, continue_final)
                return _tokenise(marks.split(rendered), tokenizer)
        raise BadModelFile("The model's chat template refuses this conversation.", "Use complete, or another template.")

    def _render(self, messages: Sequence[Message], continue_final: bool) -> tuple[_Marks, str]:
        marks = _Marks([break_markers(message.content) for message in messages])
        shown = [{"role": m.role, "content": marks.placeholder(i)} for i, m in enumerate(messages)]
        rendered = _compiled(self.source)(
            messages=shown,
            add_generation_prompt=not continue_final,
            bos_token=marks.bos,
            eos_token=marks.eos,
            tools=None,
        )
        missing = [m.role for i, m in enumerate(messages) if m.content and marks.key(i) not in rendered]
        if missing:
            raise _Refused
        if continue_final:
            end = rendered.rindex(marks.key(len(messages) - 1)) + len(marks.key(0))
            rendered = rendered[:end]
        return marks, rendered


def encode_rendered(render: Callable[[list[str]], str], contents: Sequence[str], tokenizer: Tokenizer) -> list[int]:
    """The ids of the prompt that a caller's own template makes of `contents`, under the same rule.

    `render` is given stand-ins in place of the contents. What it writes itself may hold control tokens.
    """
    marks = _Marks([break_markers(content) for content in contents])
    return _tokenise(marks.split(render([marks.placeholder(i) for i in range(len(contents))])), tokenizer)


_BLANK = "\u2003"
"""An em space: trimmed like any white space, and not what a template writes itself."""


class _Marks:
    """Stand-ins for contents and for BOS and EOS. Private-use characters and a random part: no template writes them."""

    def __init__(self, contents: Sequence[str]) -> None:
        self.contents = contents
        self.secret = secrets.token_hex(8)
        self.bos, self.eos = f"\ue000{self.secret}BOS\ue001", f"\ue000{self.secret}EOS\ue001"

    def key(self, index: int) -> str:
        return f"\ue000{self.secret}{index:03}\ue001"

    def placeholder(self, index: int) -> str:
        """With a blank on each side that shows whether the template trims. Empty contents stay empty."""
        return f"{_BLANK}{self.key(index)}{_BLANK}" if self.contents[index] else ""

    def split(self, rendered: str) -> list[tuple[str, str]]:
        """("template" | "content" | "bos" | "eos", text) in order."""
        parts: list[tuple[str, str]] = []
        pattern = re.compile(f"({_BLANK}?)\ue000{self.secret}(BOS|EOS|[0-9]+)\ue001({_BLANK}?)")
        at = 0
        for match in pattern.finditer(rendered):
            left, name, right = match.groups()
            if name.isdigit():
                text = self.contents[int(name)]
                text = text if left else text.lstrip()
                text = text if right or match.end() == len(rendered) else text.rstrip()
                parts += [("template", rendered[at : match.start()]), ("content", text)]
            else:
                parts += [("template", rendered[at : match.start()] + left), (name.lower(), "")]
            at = match.end() if name.isdigit() else match.end() - len(right)
        return [*parts, ("template", rendered[at:])]


def _tokenise(parts: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> list[int]:
    vocabulary = tokenizer.vocabulary
    stretches: list[str | int] = [""]
    for kind, text in parts:
        pieces: list[str | int]
        if kind == "content":
            pieces = [text]
        elif kind == "template":
            pieces = _controls_apart(text, tokenizer)
        else:
            control = vocabulary.bos if kind == "bos" else vocabulary.eos
            pieces = [] if control is None else [control]
        for piece in pieces:
            last = stretches[-1]
            if isinstance(piece, str) and isinstance(last, str):
                stretches[-1] = last + piece
            else:
                stretches.append(piece)
    ids = [i for piece in stretches for i in (tokenizer.tokenize(piece) if isinstance(piece, str) else [piece])]
    if vocabulary.add_bos and vocabulary.bos is not None and ids[:1] != [vocabulary.bos]:
        ids.insert(0, vocabulary.bos)
    return ids


def _controls_apart(text: str, tokenizer: Tokenizer) -> list[str | int]:
    """The control tokens that the template wrote in `text`, and the plain text between them."""
    ids = tokenizer.tokenize(text, special=True) if text else []
    pieces: list[str | int] = []
    for control in (i for i in ids if tokenizer.token_bytes(i) == b""):
        before, _, text = text.partition(_spelling(control, text, tokenizer))
        pieces += [before, control]
    return [*pieces, text]


def _spelling(control: int, text: str, tokenizer: Tokenizer) -> str:
    """How the first control token of `text` is written. Engines give no text for it, so it is searched for: the
    shortest prefix of `text` that holds the token ends with it, and it is the shortest end of that prefix that is
    this token alone."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high) // 2
        if control in tokenizer.tokenize(text[:middle], special=True):
            high = middle
        else:
            low = middle + 1
    starts = range(low - 1, -1, -1)
    return next((text[s:low] for s in starts if tokenizer.tokenize(text[s:low], special=True) == [control]), text[:low])


@lru_cache(maxsize=16)
def _compiled(source: str) -> Callable[..., str]:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(_message: str = "") -> NoReturn:
        raise _Refused

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)

    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise _broken(error) from None

    def render(**values: Any) -> str:
        try:
            return template.render(**values)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise _broken(error) from None

    return render


def _broken(error: Exception) -> BadModelFile:
    return BadModelFile(f"The model's chat template is broken: {error}.", "Use complete, or another template.")
