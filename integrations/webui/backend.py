"""Hanpaca's model behind the host's page and API: loading, presenting it to the host, and answering.

It never takes the place of a model that the user loaded in the host. When the host unloads what it has, the weights
are freed, and the model is presented again: they load anew at the next message. Knows no documents and no page.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ... import load
from ...core.engines.base import Delta, TokenLogprob
from ...core.errors import BadInput, ContextOverflow, HanpacaError
from ...core.model import Model
from ...core.sampling import Sampling
from . import host
from .host_settings import HostSettings, settings_for
from .prompting import Prompt, ids_of_parts, ids_of_text, is_whole, mark, mark_history, parts_of, spaced, unmarked
from .sampling import sampling_of, stop_strings
from .stand_in import LlamaServer, entries

LOOK_SECONDS = 0.05
"""How often Stop is looked at while no token comes."""
SETTLE_SECONDS = 1.0
"""Between the host's unloading of one model and its loading of the next."""
PATIENCE_SECONDS = 30.0


class Backend:
    """One model for the host. Thread-safe."""

    def __init__(self) -> None:
        self.wanted: tuple[str, int] | None = None
        """The model's name and context (0: its own), while it is switched on."""
        self.ignored: list[str] = []
        """Settings of the last generation that have no counterpart here."""
        self._model: Model | None = None
        self._stand_in: LlamaServer | None = None
        self._before: HostSettings | None = None
        self._own: HostSettings | None = None
        self._lock = threading.RLock()

    # -- the model -----------------------------------------------------------------------------------------------

    @property
    def shown(self) -> str:
        """What the host calls the model."""
        return f"hanpaca: {self.wanted[0]}" if self.wanted else "None"

    @property
    def active(self) -> bool:
        """Whether the host's model is ours."""
        return self._stand_in is not None and host.shared().model is self._stand_in

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._model is not None

    @property
    def model(self) -> Model:
        """The model, its weights loaded. Raises what `hanpaca.load` raises."""
        with self._lock:
            if self.wanted is None:
                raise BadInput("Hanpaca's model is not loaded.", "Load one in the Hanpaca tab.")
            if self._model is None:
                self._model = _open(*self.wanted)
            return self._model

    def load(self, name: str, context: int = 0) -> None:
        """Load a model and present it to the host. Raises `BadInput` where the host has one of its own."""
        self.check_free()
        if not name.strip():
            raise BadInput("No model is chosen.", "Choose one, or write the path of a .gguf file.")
        model = _open(name.strip(), context)
        with self._lock:
            self.unload()
            self.wanted, self._model = (name.strip(), context), model
            self._own = None
            self.present()

    def unload(self) -> None:
        """Take the model away from the host and free the weights."""
        with self._lock:
            self.wanted = None
            if self.active:
                shared = host.shared()
                shared.model = shared.tokenizer = None
                shared.model_name = "None"
            self._leave()

    def check_free(self) -> None:
        """Raise `BadInput` while the host has, or has put to sleep, a model of its own."""
        shared = host.shared()
        if not self.active and (shared.model is not None or shared.model_name not in (*host.NO_MODEL, self.shown)):
            raise BadInput(
                f"The web UI has its own model: {shared.model_name}.", "Press Unload in the Model tab first."
            )

    def present(self) -> bool:
        """Be the host's model, unless it has one; whether we are."""
        with self._lock:
            if self.wanted is None or self.active:
                return self.active
            try:
                self.check_free()
            except BadInput:
                return False
            if self._before is None:
                self._before = HostSettings.now()
            if self._own is None:
                self._own = settings_for(self.model)
            shared = host.shared()
            self._own.put()
            self._stand_in = LlamaServer(self)
            shared.is_multimodal = shared.is_seq2seq = False
            shared.model_name = self.shown
            shared.model = shared.tokenizer = self._stand_in
            return True

    def let_go(self, stand_in: LlamaServer) -> None:
        """The host unloads what it takes for its model."""
        with self._lock:
            if stand_in is not self._stand_in:
                return
            self._leave()
        self.return_when_free(stand_in)

    def return_when_free(self, gone: object) -> None:
        """Once the host has let go of the model `gone` and loads no other, present ours again."""
        if self.wanted is not None:
            threading.Thread(target=self._return, args=(gone,), name="hanpaca-webui", daemon=True).start()

    def _return(self, gone: object) -> None:
        shared, since = host.shared(), 0.0
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.wanted is not None and time.monotonic() < deadline:
            if shared.model is not None and shared.model is not gone:
                return  # the user has loaded another
            if shared.model is None and shared.model_name == self.shown:
                self.present()  # unloaded for idleness: the host means to load it again by this name, and cannot
                return
            free = shared.model is None and shared.model_name in host.NO_MODEL
            since = (since or time.monotonic()) if free else 0.0
            if since and time.monotonic() - since >= SETTLE_SECONDS:
                self.present()
                return
            time.sleep(LOOK_SECONDS / 5)

    def _leave(self) -> None:
        """Free the weights, and put back what the host had."""
        self._stand_in = None
        if self._before is not None:
            self._before.put()
            self._before = None
        model, self._model = self._model, None
        if model is not None:
            model.close()

    # -- prompts ---------------------------------------------------------------------------------------------------

    def limit(self, state: Mapping[str, Any]) -> int:
        """Tokens of prompt and answer: what the host says, within the model's context."""
        own = self.model.context_length
        return min(int(state.get("truncation_length") or own), own)

    def prompt(self, user_input: str, state: dict[str, Any], kwargs: Mapping[str, Any]) -> Prompt:
        """The host's own prompt that remembers who wrote what; the host shortens it to `truncation_length`."""
        asked = dict(state)
        for name in ("custom_system_message", "context", "user_bio"):
            asked[name] = mark(state.get(name) or "", "s")
        history = kwargs.get("history", state["history"])
        text, rows = self._render(user_input, asked, history, kwargs)
        if not is_whole(text):  # the host cut the last message short, and its mark off
            history = _with_last_cut(history, unmarked(rows[-1]), kwargs)
            text, _ = self._render(unmarked(rows[-1]), asked, history, kwargs)
        parts = parts_of(text)
        return Prompt.of(spaced(parts) if kwargs.get("_continue") else parts)

    def _render(
        self, user_input: str, state: dict[str, Any], history: Mapping[str, Any], kwargs: Mapping[str, Any]
    ) -> tuple[str, list[str]]:
        given = {**kwargs, "history": mark_history(history), "also_return_rows": True}
        text, rows = host.module("chat").generate_chat_prompt(mark(user_input, "u"), state, **given)
        return str(text), list(rows)

    def tokens(self, prompt: str, state: Mapping[str, Any]) -> list[int]:
        """The ids of a prompt, made by `prompt` or written by somebody."""
        if isinstance(prompt, Prompt) and prompt.parts:
            return ids_of_parts(self.model, prompt.parts)
        in_chat = not state.get("add_bos_token", True) and state.get("mode") in ("instruct", "chat-instruct")
        return ids_of_text(self.model, prompt, bos=in_chat or bool(state.get("add_bos_token", True)))

    # -- answers -----------------------------------------------------------------------------------------------------

    def reply(self, prompt: str, state: dict[str, Any], stopping_strings: Any, is_chat: bool = True) -> Iterator[str]:
        """The answer so far, again and again; once, whole, where the host does not stream. Closing it stops the work,
        and so does the host's Stop, within one token."""
        try:
            if not is_chat:
                yield ""
            streaming, text = bool(state.get("stream", True)), ""
            for text in self._generate(prompt, state, stopping_strings):
                if streaming:
                    yield text
            if not streaming:
                yield text
        except HanpacaError as error:
            raise host.told(error) from error

    def _generate(self, prompt: str, state: dict[str, Any], stopping_strings: Any) -> Iterator[str]:
        model, stand_in = self.model, self._stand_in or LlamaServer(self)
        tokens, room = self._fit(model, self.tokens(prompt, state), state)
        stops = stop_strings(stopping_strings, state.get("custom_stopping_strings"))
        before = self.ignored
        sampling, self.ignored = sampling_of(state, max_tokens=room, stop=stops, vocabulary=model.engine.vocabulary)
        if self.ignored and self.ignored != before:
            host.log.warning("Hanpaca's engine does not have these settings: %s", ", ".join(self.ignored))
        stand_in.last_prompt_token_count = len(tokens)
        stand_in.last_completion_token_count = 0
        stand_in.last_completion_probabilities = probabilities = []
        text = ""
        for delta in self._deltas(model, tokens, sampling, lambda: host.stopped(state)):
            stand_in.last_completion_token_count += 1
            probabilities.extend(entries(delta.logprobs))
            if delta.usage is not None:
                stand_in.last_completion_token_count = delta.usage.completion_tokens
            if delta.text:
                text += delta.text
                yield text

    def _deltas(
        self, model: Model, tokens: list[int], sampling: Sampling, stopped: Callable[[], bool]
    ) -> Iterator[Delta]:
        """Deltas until the end, or until somebody stops: also while a long prompt is computed and no token comes."""
        heard: queue.SimpleQueue[Delta | BaseException] = queue.SimpleQueue()
        handle = model.engine.submit(model.token_request(tokens, sampling), heard.put)
        try:
            while not stopped():
                try:
                    event = heard.get(timeout=LOOK_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(event, BaseException):
                    raise event
                yield event
                if event.finish_reason:
                    return
        finally:
            handle.cancel()

    def _fit(self, model: Model, tokens: list[int], state: Mapping[str, Any]) -> tuple[list[int], int]:
        """The prompt, cut from the left where a person wrote too long a one, and the room for new tokens."""
        limit = self.limit(state)
        new = max(1, int(state.get("max_new_tokens") or 1))
        if new >= limit:
            raise ContextOverflow(
                f"max_new_tokens ({new}) leaves no room for a prompt: the context is {limit} tokens.",
                "Set a lower max_new_tokens, or load the model with a larger context.",
            )
        if len(tokens) > limit - new:
            host.log.warning("The first %d tokens of the prompt were left out.", len(tokens) - (limit - new))
            bos = model.engine.vocabulary.bos
            kept = tokens[-(limit - new) :]
            tokens = [tokens[0], *kept[1:]] if tokens[0] == bos else kept
        if state.get("auto_max_new_tokens"):
            # Not the whole context: that would stretch the model for an answer that is most likely short.
            window = model.native_context if len(tokens) < model.native_context else limit
            new = max(new, min(window, limit) - len(tokens))
        return tokens, new

    def first_token(self, tokens: list[int], count: int) -> Sequence[TokenLogprob]:
        """The log-probabilities of what comes first after a prompt."""
        request = Sampling(max_tokens=1, temperature=0, logprobs=max(1, count))
        found: list[TokenLogprob] = []
        for delta in self._deltas(self.model, tokens, request, lambda: False):
            found += delta.logprobs
        return found


def _open(name: str, context: int) -> Model:
    """A model with its weights loaded."""
    model = load(name, context=context) if context else load(name)
    try:
        _ = model.engine
    except BaseException:
        model.close()
        raise
    return model


def _with_last_cut(history: Mapping[str, Any], cut: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The history that gives the message which the host cut short: an answer that is continued stands in it, and what
    is attached to a question is in the cut text already."""
    internal = [list(entry) for entry in history["internal"]]
    metadata = {key: value for key, value in history.get("metadata", {}).items() if key != f"user_{len(internal)}"}
    if kwargs.get("_continue") and internal:
        internal[-1][1] = cut
    return {**history, "internal": internal, "metadata": metadata}
