"""`hanpaca chat`: talk to a model in the terminal, or pipe messages into it.

Ctrl+C stops the answer that is being written and keeps the conversation; Ctrl+D ends.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import cast

from ...core import Delta, Message, Model, Sampling, load
from ...core.errors import BadInput, ContextOverflow
from .arguments import Parser, add_json, add_model, add_sampling, sampling_of
from .output import as_json, note, say
from .places import model_name, model_options

HELP = "/clear begins anew, /retry answers the last message again, /exit or Ctrl+D ends, Ctrl+C stops an answer."


def run(argv: list[str]) -> int:
    """Answer messages until the input ends."""
    parser = Parser("chat", "Talk to a model. In a pipe each line is one message.")
    parser.add_argument("message", nargs="*", help="answer this one message and end")
    add_model(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system prompt; default: the model's own")
    add_sampling(parser)
    add_json(parser)
    found = parser.parse(argv)
    with load(model_name(found.model), system_prompt=found.system, **model_options(found)) as model:
        if model.kind == "base":
            raise BadInput(
                f"{model.name} is a base model: it continues texts and does not chat.", "Choose a chat model."
            )
        sampling = Sampling.of(sampling_of(found))
        if found.message:
            return _once(model, " ".join(found.message), sampling, found.json)
        _converse(model, sampling)
    return 0


def _once(model: Model, text: str, sampling: Sampling, json: bool) -> int:
    messages = [Message("user", text)]
    if not json:
        _answer(model, messages, sampling)
        return 0
    completion = model.chat(messages, sampling)
    usage = {"prompt_tokens": completion.usage.prompt_tokens, "completion_tokens": completion.usage.completion_tokens}
    as_json({"model": model.name, "text": completion.text, "finish_reason": completion.finish_reason, "usage": usage})
    return 0


def _converse(model: Model, sampling: Sampling) -> None:
    messages: list[Message] = []
    if sys.stdin.isatty():
        note(f"{model.name}. {HELP}")
    for line in _lines():
        if line in ("/exit", "/quit"):
            return
        if line == "/clear":
            messages.clear()
            note("A new conversation.")
            continue
        if line == "/retry" and len(messages) > 1:
            messages.pop()
        elif line.startswith("/"):
            note(HELP)
            continue
        else:
            messages.append(Message("user", line))
        text = _answer(model, messages, sampling)
        if text:
            messages.append(Message("assistant", text))
        else:
            messages.pop()


def _lines() -> Iterator[str]:
    """What the user types, with editing and history on a terminal; empty lines are skipped."""
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401  # its import is what gives input() editing and history
    while True:
        try:
            line = input("> ") if terminal else sys.stdin.readline()
        except EOFError:
            return
        except KeyboardInterrupt:
            note("")
            continue
        if not terminal and not line:
            return
        if line.strip():
            yield line.strip()


def _answer(model: Model, messages: list[Message], sampling: Sampling) -> str:
    """Write one answer; returns what was written, also when it was stopped."""
    parts: list[str] = []
    stream = model.stream_chat(messages, sampling)
    try:
        for delta in stream:
            parts.append(delta.text)
            sys.stdout.write(delta.text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        note(" [stopped]")
    except ContextOverflow as error:
        note(f"{error} /clear begins a new conversation.")
    finally:
        cast("Generator[Delta]", stream).close()
    say()
    return "".join(parts)
