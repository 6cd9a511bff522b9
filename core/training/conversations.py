"""Conversations → token ids with the answers marked, by the model's own chat template. Knows no files and no torch.

What is trained is what the model will meet: the ids that the template gives as a prompt, then the answer and the token
that ends it. Exactly these last two carry loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..chat import Message, Template, Tokenizer, normalized
from ..errors import BadInput

FIRST, PROMPT, ANSWER = 0, 1, 2
"""Marks of tokens: without context, of a prompt, of an answer or its end."""


@dataclass
class Cut:
    """How often an example did not fit."""

    at_turns: int = 0
    """How often a conversation was cut between turns."""
    answers: int = 0
    """Answers that lost their end."""
    left_out: int = 0
    """Questions longer than an example, with their answers."""
    places: list[str] = field(default_factory=list)
    """Where the conversations of these questions stand."""


@dataclass(frozen=True)
class Example:
    """Ids, and for each a mark of this module."""

    ids: NDArray[np.uint32]
    marks: NDArray[np.uint8]


class Encoder:
    """A template over a tokenizer, for training."""

    def __init__(self, template: Template, tokenizer: Tokenizer, length: int) -> None:
        self._template, self._tokenizer, self.length = template, tokenizer, length
        self.end = self._end()
        self.cut = Cut()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids before the answer to `messages`, as in inference."""
        return self._template.encode(messages, self._tokenizer)

    def answer(self, messages: Sequence[Message], prompt: list[int], answer: str) -> list[int]:
        """The answer's ids, its end included. Where template and answer are split together, as they stand there."""
        whole = self._template.encode([*messages, Message("assistant", answer)], self._tokenizer, continue_final=True)
        if whole[: len(prompt)] == prompt and len(whole) > len(prompt):
            return [*whole[len(prompt) :], self.end]
        return [*self._tokenizer.tokenize(answer), self.end]

    def examples(self, messages: Sequence[Message], place: str = "") -> Iterator[Example]:
        """A conversation as examples of at most `length` tokens, cut between turns where it is longer.

        A later part begins with the system message and its own first question. Answers that alone are too long lose
        their end, with the token that ends them.
        """
        system, turns = _turns(messages)
        start = 0
        ids: list[int] = []
        marks: list[int] = []
        for number, (asked, answered) in enumerate(turns):
            prompt, answer = self._turn(system, turns[start:number], asked, answered)
            follows = bool(ids) and prompt[: len(ids)] == ids
            if ids and (not follows or len(prompt) + len(answer) > self.length):
                yield _example(ids, marks)
                if len(prompt) + len(answer) > self.length:
                    self.cut.at_turns += 1
                    start = number
                    prompt, answer = self._turn(system, [], asked, answered)
                ids, marks = [], []
            if len(prompt) >= self.length:
                self.cut.left_out += 1
                self.cut.places.append(f"{place}: a question is longer than --length")
                ids, marks, start = [], [], number + 1
                continue
            if len(prompt) + len(answer) > self.length:
                self.cut.answers += 1
                answer = answer[: self.length - len(prompt)]
            marks += [PROMPT] * (len(prompt) - len(ids)) + [ANSWER] * len(answer)
            ids = prompt + answer
        if ids:
            yield _example(ids, marks)

    def _turn(
        self, system: list[Message], before: Sequence[tuple[Message, Message]], asked: Message, answered: Message
    ) -> tuple[list[int], list[int]]:
        context = [*system, *(message for turn in before for message in turn), asked]
        prompt = self.prompt(context)
        return prompt, self.answer(context, prompt, answered.content)

    def _end(self) -> int:
        """The token that the template puts behind an answer; EOS where it puts none."""
        talk = [Message("user", "a"), Message("assistant", "b")]
        open_ = self._template.encode(talk, self._tokenizer, continue_final=True)
        closed = self._template.encode([*talk, Message("user", "c")], self._tokenizer)
        vocabulary = self._tokenizer.vocabulary
        if closed[: len(open_)] == open_:
            for token in closed[len(open_) :]:
                if token in vocabulary.ends or token == vocabulary.eos:
                    return token
        if vocabulary.eos is None:
            raise BadInput("The tokenizer has no token that ends an answer.", "Give its settings an eos_token.")
        return vocabulary.eos


def _turns(messages: Sequence[Message]) -> tuple[list[Message], list[tuple[Message, Message]]]:
    plain = normalized(messages, continue_final=True)
    system = [plain.pop(0)] if plain[0].role == "system" else []
    return system, list(zip(plain[::2], plain[1::2], strict=True))


def _example(ids: list[int], marks: list[int]) -> Example:
    found = Example(np.array(ids, dtype=np.uint32), np.array(marks, dtype=np.uint8))
    found.marks[0] = FIRST
    return found
