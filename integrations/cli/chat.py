"""`hanpaca chat`: talk to a model in the terminal, or pipe messages into it; with --library, about one's documents.

Ctrl+C stops the answer that is being written and keeps the conversation; Ctrl+D ends.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from ...core import Delta, Message, Model, Sampling, load
from ...core.errors import BadInput, ContextOverflow
from .answers import plain_answer, show_answer
from .arguments import Parser, add_abstain, add_json, add_model, add_sampling, sampling_of
from .ask import model_of
from .library import open_library
from .output import as_json, note, say, write
from .places import NO_MODEL, READER, model_name, model_options, no_model

if TYPE_CHECKING:
    from ...rag import AnswerDelta, Library

HELP = "/clear begins anew, /retry answers the last message again, /exit or Ctrl+D ends, Ctrl+C stops an answer."


Reply = Callable[[list[Message]], str]
"""Writes the answer to the last message and returns it, also when it was stopped."""


def run(argv: list[str]) -> int:
    """Answer messages until the input ends."""
    parser = Parser("chat", "Talk to a model. In a pipe each line is one message.")
    parser.add_argument("message", nargs="*", help="answer this one message and end")
    parser.add_argument(
        "--library", metavar="NAME|PATH", help="answer from the documents of this library, with sources"
    )
    add_model(parser, extra=f" ({READER} with --library, where `{NO_MODEL}` quotes the documents without a model)")
    add_abstain(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system prompt; default: the model's own")
    add_sampling(parser)
    add_json(parser)
    found = parser.parse(argv)
    if found.json and not found.message:
        parser.error('--json goes with one message, such as: hanpaca chat --json "Hello"')
    if found.library is None and not found.abstain:
        parser.error("--no-abstain goes with --library")
    if found.library is not None:
        return _about_documents(found)
    if no_model(found.model):
        raise BadInput("Without a library there is nothing to quote.", "Name a model, or give --library.")
    with load(model_name(found.model), system_prompt=found.system, **model_options(found)) as model:
        if model.kind == "base":
            raise BadInput(
                f"{model.name} is a base model: it continues texts and does not chat.", "Choose a chat model."
            )
        if model.reads:
            raise BadInput(f"{model.name} reads documents and does not chat.", "Name a library with --library.")
        sampling = Sampling.of(sampling_of(found))
        if found.message:
            return _once(model, " ".join(found.message), sampling, found.json)
        _converse(model.name, lambda messages: _answer(model, messages, sampling))
    return 0


def _about_documents(found: argparse.Namespace) -> int:
    """Every message is a question to the library; what was said before makes it whole."""
    if found.system is not None:
        raise BadInput(
            "--system and --library exclude each other.", "Answers from documents have a prompt of their own."
        )
    with contextlib.ExitStack() as opened:
        library = opened.enter_context(open_library(found))
        model = model_of(found, opened, READER)
        options: dict[str, Any] = {"sampling": Sampling.of(sampling_of(found)), "abstain": found.abstain}
        if found.message and found.json:
            from ...rag import answer

            as_json(plain_answer(answer(library, model, " ".join(found.message), **options), model))
        elif found.message:
            _quote(library, model, [Message("user", " ".join(found.message))], options)
        else:
            name = f"{model.name if model else 'No model'}, library {found.library}"
            _converse(name, lambda messages: _quote(library, model, messages, options))
    return 0


def _quote(library: Library, model: Model | None, messages: list[Message], options: Mapping[str, Any]) -> str:
    """One answer from the documents, with its sources."""
    from ...rag import Answer, stream_answer

    *history, question = messages
    parts: list[str] = []
    events = stream_answer(library, model, question.content, history=history, **options)
    with contextlib.closing(cast("Generator[AnswerDelta | Answer]", events)):
        try:
            for event in events:
                if isinstance(event, Answer):
                    show_answer(event)
                else:
                    parts.append(event.text)
                    write(event.text)
        except KeyboardInterrupt:
            note(" [stopped]")
        except ContextOverflow as error:
            note(f"{error} /clear begins a new conversation.")
    return "".join(parts)


def _once(model: Model, text: str, sampling: Sampling, json: bool) -> int:
    messages = [Message("user", text)]
    if not json:
        _answer(model, messages, sampling)
        return 0
    completion = model.chat(messages, sampling)
    usage = {"prompt_tokens": completion.usage.prompt_tokens, "completion_tokens": completion.usage.completion_tokens}
    as_json({"model": model.name, "text": completion.text, "finish_reason": completion.finish_reason, "usage": usage})
    return 0


def _converse(name: str, reply: Reply) -> None:
    messages: list[Message] = []
    if sys.stdin.isatty():
        note(f"{name}. {HELP}")
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
        text = reply(messages)
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
            if not terminal:
                raise
            note("")  # at the prompt it begins a new line, as in a shell
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
            write(delta.text)
    except KeyboardInterrupt:
        note(" [stopped]")
    except ContextOverflow as error:
        note(f"{error} /clear begins a new conversation.")
    finally:
        cast("Generator[Delta]", stream).close()
    say()
    return "".join(parts)
