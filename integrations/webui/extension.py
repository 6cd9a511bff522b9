"""The extension: its hooks as the host calls them, over one backend and one set of documents in a process.

The host loads script.py anew at each of its restarts; `attach` ties the new one to what is here already. Knows the
host's hooks; the page is `tab`'s.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...core.chat import Message
from ...core.errors import HanpacaError
from ...rag.consulting import Consulted, Sourced, consult, without_sources
from . import host
from .backend import Backend
from .documents import Documents
from .prompting import Prompt
from .sampling import stop_strings
from .settings import Settings, read

RECORD = "hanpaca"
"""Where the state of one generation keeps what was looked up for it."""
WHOLE = 2**31
"""A window in which the host shortens nothing, to measure a prompt."""


class Extension:
    """What script.py calls."""

    HOOKS = ("custom_generate_reply", "custom_generate_chat_prompt", "output_modifier", "history_modifier")

    def __init__(self) -> None:
        self.backend = Backend()
        self.documents = Documents()
        self.script: Any = None
        self.problems: list[str] = []
        self._live: dict[str, Any] = {}
        """What the tab has set since the process began: a restart of the host's page must not lose it."""

    # -- settings ----------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return read(self.script.params)[0]

    def set(self, **changes: Any) -> None:
        """Change settings. The host compares `params` with what they were: they are replaced, never changed."""
        self._live |= changes
        self.script.params = {**self.script.params, **changes}

    def setup(self) -> None:
        """Take up what is set: called by the host after it has read its settings, at its start and each restart."""
        self.script.params = {**self.script.params, **self._live}
        settings, self.problems = read(self.script.params)
        if settings.backend and settings.model and not self.backend.active:
            try:
                self.backend.load(settings.model, settings.context)
            except HanpacaError as error:
                self.problems.append(str(error))
        for problem in self.problems:
            host.log.warning("%s", problem)

    def ui(self) -> None:
        """Draw the tab."""
        from .tab import draw

        draw(self)

    # -- hooks -------------------------------------------------------------------------------------------------------

    def hook(self, name: str) -> Callable[..., Any] | None:
        """The hook, where it is wanted now: the host asks one extension only, and ours stands aside when idle."""
        with_documents = self.uses_documents()
        wanted = with_documents or (self.backend.active and name.startswith("custom_"))
        found: Callable[..., Any] = getattr(self, name)
        return found if wanted else None

    def uses_documents(self) -> bool:
        """Whether documents are switched on; under --multi-user whoever has some, has."""
        return host.multi_user() or self.settings.documents

    def custom_generate_chat_prompt(self, user_input: str, state: dict[str, Any], **kwargs: Any) -> Prompt:
        """The host's prompt, with passages where documents are on. History and settings stay as they are: only copies
        of them are rendered."""
        state.pop(RECORD, None)
        history = kwargs.get("history", state["history"])
        history = {**history, "internal": [_answered(entry) for entry in history["internal"]]}
        kwargs = {**kwargs, "history": history}
        record = self._look_up(user_input, state, kwargs) if self.uses_documents() else None
        asked = state
        if record is not None and record.used:
            user_input, asked, kwargs = _with_passages(record.instruction, record.text, user_input, state, kwargs)
        if self.backend.active:
            asked = {**asked, "truncation_length": self.backend.limit(state)}
        prompt = self._render(user_input, asked, kwargs)
        if record is not None:
            prompt.record = state[RECORD] = record
        return prompt

    def custom_generate_reply(
        self,
        question: str,
        original_question: str,
        state: dict[str, Any],
        stopping_strings: Any = None,
        is_chat: bool = False,
    ) -> Iterator[str]:
        """The reply so far, again and again: of our model, or of the host's with its source numbers checked."""
        if self.backend.active:
            replies = self.backend.reply(question, state, stopping_strings, is_chat)
        else:
            replies = _of_host(question, original_question, state, stopping_strings, is_chat)
        record = getattr(question, "record", None)
        if record is None or not record.used:
            yield from replies
            return
        try:
            stops = stop_strings(stopping_strings, state["custom_stopping_strings"])
        except HanpacaError as error:
            raise host.told(error) from error
        yield from self._checked(replies, record, stops)

    def output_modifier(self, string: str, state: dict[str, Any], is_chat: bool = False) -> str:
        """The reply as the page shows it, with its sources under it, unless they are a part of it."""
        record = state.get(RECORD)
        if not is_chat or record is None or (self.settings.write_sources and not record.apart):
            return string
        return string + html.escape(record.written())

    def history_modifier(self, history: dict[str, Any]) -> dict[str, Any]:
        """The host's own copy of the history, whose last reply is continued in front of its sources."""
        for kind in ("internal", "visible"):
            if rows := history.get(kind):
                last = list(rows[-1])
                last[1] = Sourced(last[1])
                history[kind] = [*rows[:-1], last]
        return history

    # -- documents in prompts ------------------------------------------------------------------------------------------

    def _look_up(self, user_input: str, state: dict[str, Any], kwargs: Mapping[str, Any]) -> Consulted | None:
        """What the library says to the question at hand; a library that fails must not take the chat with it."""
        entries = kwargs["history"]["internal"]
        continued = bool(kwargs.get("_continue")) and bool(entries)
        question = entries[-1][0] if continued else user_input
        settings = self.settings
        try:
            library = self.documents.library(settings.library)
            if library is None or not question.strip() or not library.files():
                return None
            record = consult(
                library,
                question,
                history=_messages(entries[:-1] if continued else entries),
                k=settings.passages,
                always=settings.always_use,
                holds=lambda instruction, text: self._holds(instruction, text, state, kwargs),
            )
        except HanpacaError as error:
            host.log.error("The documents could not be searched: %s", error)
            record = Consulted(question, reason=str(error))
        if continued:  # what was written before belongs to the answer, and may cite
            record.marks.feed(entries[-1][1])
            record.marks.finish()
        self.documents.last[self.documents.owner()] = record
        return record

    def _holds(self, instruction: str, text: str, state: dict[str, Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a question with passages, and nothing said before it, leaves the room that the answer is to have."""
        entries = kwargs["history"]["internal"][-1:] if kwargs.get("_continue") else []
        alone = {**kwargs, "history": {"internal": entries, "visible": entries, "metadata": {}}}
        user_input, asked, alone = _with_passages(instruction, text, "", {**state, "truncation_length": WHOLE}, alone)
        prompt = self._render(user_input, asked, alone)
        if self.backend.active:
            return len(self.backend.tokens(prompt, state)) <= self.backend.limit(state) - int(state["max_new_tokens"])
        generation = host.module("text_generation")
        return int(generation.get_encoded_length(prompt)) <= int(generation.get_max_prompt_length(state))

    def _render(self, user_input: str, state: dict[str, Any], kwargs: Mapping[str, Any]) -> Prompt:
        if self.backend.active:
            return self.backend.prompt(user_input, state, kwargs)
        return Prompt(host.module("chat").generate_chat_prompt(user_input, state, **kwargs))

    def _checked(self, replies: Iterator[str], record: Consulted, stops: Sequence[str]) -> Iterator[str]:
        """Replies with source numbers that there are; at the end with the sources, where they belong to the reply.

        The host's model may run into a stop text, at which the host would end it before its sources are written.
        """
        cut = host.module("text_generation").apply_stopping_strings
        seen = shown = ""
        for reply in replies:
            reply, stop = cut(reply, stops)
            if reply.startswith(seen):
                shown += record.marks.feed(reply[len(seen) :])
                seen = reply
                yield shown
            if stop:
                break
        shown += record.marks.finish()
        if self.settings.write_sources:
            written = record.written()
            record.apart = any(len(stop) == 1 and stop in written for stop in stops)
            shown += "" if record.apart else _without(written, stops)
        yield shown


def _of_host(question: str, original: str, state: dict[str, Any], stops: Any, is_chat: bool) -> Iterator[str]:
    """What the host would do without us."""
    generation, shared = host.module("text_generation"), host.shared()
    if not host.module("utils").check_model_loaded()[0]:
        yield ""
        return
    own = shared.model.__class__.__name__ in ("LlamaServer", "Exllamav3Model", "TensorRTLLMModel")
    function = generation.generate_reply_custom if own else generation.generate_reply_HF
    yield from function(question, original, state, stops, is_chat=is_chat)


def _with_passages(
    instruction: str, text: str, user_input: str, state: dict[str, Any], kwargs: Mapping[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Copies in which the question carries its passages, and the system prompt what to do with them."""
    place = "context" if state["mode"] == "chat" else "custom_system_message"
    system = "\n\n".join(part for part in ((state.get(place) or "").strip(), instruction) if part)
    history = kwargs["history"]
    if not kwargs.get("_continue"):
        return text, {**state, place: system}, dict(kwargs)
    entries = [list(entry) for entry in history["internal"]]
    entries[-1][0] = text
    return user_input, {**state, place: system}, {**kwargs, "history": {**history, "internal": entries}}


def _answered(entry: Sequence[Any]) -> list[Any]:
    """An entry of the history whose answer has no sources under it."""
    return [entry[0], without_sources(entry[1]), *entry[2:]]


def _messages(entries: Sequence[Sequence[Any]]) -> list[Message]:
    found = []
    for entry in entries:
        found += [Message("user", entry[0])] if entry[0].strip() else []
        found += [Message("assistant", entry[1])] if entry[1].strip() else []
    return found


def _without(text: str, stops: Sequence[str]) -> str:
    """Sources in which no stop text is left: the host would cut the reply off there. One character cannot be broken."""
    for stop in stops:
        text = text.replace(stop, stop[:1] + "\u200b" + stop[1:])
    return text


_extension = Extension()


def attach(script: Any) -> Extension:
    """The extension of this process, tied to the script that the host has just loaded."""
    _extension.script = script
    return _extension
