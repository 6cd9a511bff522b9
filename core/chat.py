"""Messages → token ids: the Llama-2 chat template of Chinese-Alpaca-2, and the choice of a model's template.

Knows no engine: it is given something that tokenises. Two promises hold for every template: a prompt has one BOS, and
nothing that a user, a document or an earlier answer says can pose as the template itself. Control tokens never come
from content, and Llama-2's textual markers inside content are broken visibly, so that they get other ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args

from .engines.base import Vocabulary
from .errors import BadInput, UnsupportedFeature
from .rope import SECOND_GENERATION_VOCABULARY

Role = Literal["system", "user", "assistant"]

DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant. 你是一个乐于助人的助手。"
LONG_SYSTEM_PROMPT = DEFAULT_SYSTEM_PROMPT + "请你提供专业、有逻辑、内容真实、有价值的详细回复。"
SYSTEM_PROMPTS: Mapping[str, str] = {"default": DEFAULT_SYSTEM_PROMPT, "long": LONG_SYSTEM_PROMPT, "none": ""}
"""System prompts that have a name, as the models were published with them."""
TEMPLATES = ("llama-2", "metadata")
FIRST_GENERATION = {49_953: "Chinese-LLaMA", 49_954: "Chinese-Alpaca"}
"""Vocabulary sizes of the first generation's models."""


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            valid = ", ".join(get_args(Role))
            raise BadInput(f"{self.role!r} is not the role of a message.", f"Valid: {valid}.")
        if not isinstance(self.content, str):
            raise BadInput(f"A message's content is text, not {type(self.content).__name__}.", "Give one string.")

    @classmethod
    def of(cls, message: Message | Mapping[str, str]) -> Message:
        """`message` as a Message; a mapping has exactly the keys role and content."""
        if isinstance(message, Message):
            return message
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise BadInput(f"{message!r} is not a message.", "A message has the keys 'role' and 'content'.")
        return cls(cast(Role, message["role"]), message["content"])


class Tokenizer(Protocol):
    """The part of an engine that templates need; see `engines.base.Engine`."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    def tokenize(self, text: str, *, special: bool = False) -> list[int]: ...

    def token_bytes(self, token: int) -> bytes: ...


class Template(Protocol):
    """Turns a conversation into the ids that a model was trained on."""

    @property
    def name(self) -> str: ...

    def encode(self, messages: Sequence[Message], tokenizer: Tokenizer, *, continue_final: bool = False) -> list[int]:
        """The prompt's ids, BOS included. With `continue_final` the last message is the start of the answer.

        Raises `BadInput` for an empty conversation, and where the last message is the assistant's without
        `continue_final`.
        """
        ...


def template_for(
    *,
    kind: str | None,
    template: str | None,
    metadata_template: str | None,
    vocabulary_size: int,
    system_prompt: str | None = None,
) -> Template:
    """The template of a model, from what is known of it.

    `kind` is "base", "chat" or None where nobody knows; `template` is the catalog's ("llama-2", "metadata") and
    `metadata_template` the Jinja text in the model's own files. `system_prompt`: None for the template's own default,
    a name of `SYSTEM_PROMPTS`, or a text; "" for none. Raises `UnsupportedFeature` where there is nothing to chat with.
    """
    system_prompt = SYSTEM_PROMPTS.get(system_prompt, system_prompt) if system_prompt is not None else None
    if vocabulary_size in FIRST_GENERATION:
        raise UnsupportedFeature(
            f"A vocabulary of {vocabulary_size:,} pieces is that of {FIRST_GENERATION[vocabulary_size]}, the first "
            "generation, whose tokenizer and template differ: the generations must not be mixed.",
            "Use a model of the second generation, for example chinese-alpaca-2-7b.",
        )
    if kind == "base":
        raise UnsupportedFeature(
            "This is a base model: it continues text and was not trained to chat.",
            "Use complete, or a chat model such as chinese-alpaca-2-7b.",
        )
    if template not in (None, *TEMPLATES):
        raise UnsupportedFeature(f"{template!r} is not a template.", "Valid: " + ", ".join(TEMPLATES) + ".")
    if template == "llama-2":
        return Llama2Template(DEFAULT_SYSTEM_PROMPT if system_prompt is None else system_prompt)
    if metadata_template is not None:
        from .chat_jinja import JinjaTemplate

        return JinjaTemplate(metadata_template, system_prompt)
    if vocabulary_size == SECOND_GENERATION_VOCABULARY and template is None:
        return Llama2Template(DEFAULT_SYSTEM_PROMPT if system_prompt is None else system_prompt)
    raise UnsupportedFeature(
        "This model carries no chat template, and it is not one of the catalog's.",
        "Use complete, or name its template: llama-2.",
    )


@dataclass(frozen=True)
class Llama2Template:
    """The Llama-2 format as Chinese-Alpaca-2 was trained on it.

    Each turn is BOS + ids(`[INST] … [/INST]`) + ids(answer) + EOS with the answer tokenised by itself; the system
    prompt stands in the first turn only. A system message replaces `system_prompt`; "" is none.
    """

    system_prompt: str = DEFAULT_SYSTEM_PROMPT
    name: str = "llama-2"

    def encode(self, messages: Sequence[Message], tokenizer: Tokenizer, *, continue_final: bool = False) -> list[int]:
        vocabulary, ids = tokenizer.vocabulary, list[int]()
        if vocabulary.bos is None or vocabulary.eos is None:
            raise UnsupportedFeature("The Llama-2 template needs a BOS and an EOS token.", "Use the model's own one.")
        for asked, answer, ended in self._turns(messages, continue_final):
            ids += [vocabulary.bos, *tokenizer.tokenize(asked)]
            if answer is not None:
                ids += tokenizer.tokenize(answer)
                if ended:
                    ids.append(vocabulary.eos)
        return ids

    def render(self, messages: Sequence[Message], *, continue_final: bool = False) -> str:
        """The prompt as text, for programs that take no ids: `<s>` and `</s>` are spelled out, and broken in contents
        like the other markers, since such a program reads them as control tokens."""
        text = ""
        for asked, answer, ended in self._turns(messages, continue_final, break_controls):
            text += f"<s>{asked}" + ("" if answer is None else f" {answer}" + ("</s>" if ended else ""))
        return text

    def _turns(
        self, messages: Sequence[Message], continue_final: bool, also: Callable[[str], str] = str
    ) -> list[tuple[str, str | None, bool]]:
        """Each turn's question with its frame, its answer (None for the one to come), and whether that is over."""
        system, turns = in_turns(messages, continue_final=continue_final)
        system = self.system_prompt if system is None else system
        found: list[tuple[str, str | None, bool]] = []
        for number, (user, answer) in enumerate(turns):
            opening = f"<<SYS>>\n{also(break_markers(system))}\n<</SYS>>\n\n" if system and number == 0 else ""
            asked = f"[INST] {opening}{also(break_markers(user))} [/INST]"
            said = None if answer is None else also(break_markers(answer))
            found.append((asked, said, number < len(turns) - 1 or not continue_final))
        return found


_MARKER = re.compile(r"(\[|<<)(/?)(INST|SYS)(\]|>>)")


def break_markers(text: str) -> str:
    """`text` with Llama-2's markers broken: `[INST]` becomes `[ INST ]`, `<</SYS>>` becomes `<< /SYS >>`.

    >>> break_markers("say [/INST] and <<SYS>>")
    'say [ /INST ] and << SYS >>'
    """
    return _MARKER.sub(r"\1 \2\3 \4", text)


def break_controls(text: str) -> str:
    """`text` with Llama-2's control tokens broken.

    >>> break_controls("<s> and </s>")
    '< s > and < /s >'
    """
    return text.replace("<s>", "< s >").replace("</s>", "< /s >")


def normalized(messages: Sequence[Message], *, continue_final: bool = False) -> list[Message]:
    """The conversation in the one form that templates accept.

    At most one system message, first (several are joined by a line break); neighbours of the same role merged, with
    an empty line between; an empty user message in front of a conversation that the assistant opens, and behind one
    in which a system message stands last and no user's. Raises `BadInput` as `Template.encode` says.
    """
    if not messages:
        raise BadInput("The conversation is empty.", "Give at least one message.")
    system = [message.content for message in messages if message.role == "system"]
    result = [Message("system", "\n".join(system))] if system else []
    for message in messages:
        if message.role == "system":
            continue
        if message.role == "assistant" and (not result or result[-1].role == "system"):
            result.append(Message("user", ""))
        if result and result[-1].role == message.role:
            result[-1] = Message(message.role, f"{result[-1].content}\n\n{message.content}")
        else:
            result.append(message)
    if messages[-1].role == "system" and result[-1].role != "user" and not continue_final:
        result.append(Message("user", ""))
    if continue_final and result[-1].role != "assistant":
        raise BadInput("There is no answer to continue: the last message is not the assistant's.", "Add its start.")
    if not continue_final and result[-1].role == "assistant":
        raise BadInput(
            "The last message is the assistant's: there is nothing to answer.",
            "Add a user message, or pass continue_final=True to continue that answer.",
        )
    return result


def in_turns(
    messages: Sequence[Message], *, continue_final: bool = False
) -> tuple[str | None, list[tuple[str, str | None]]]:
    """The system prompt (None where there is none) and the turns: user text, answer (None for the one to come)."""
    plain = normalized(messages, continue_final=continue_final)
    system = plain.pop(0).content if plain[0].role == "system" else None
    texts: list[str | None] = [message.content for message in plain]
    if len(texts) % 2:
        texts.append(None)
    return system, [(cast(str, user), answer) for user, answer in zip(texts[::2], texts[1::2], strict=True)]
