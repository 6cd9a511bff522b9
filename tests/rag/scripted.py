"""A model whose answers are known, and a few documents to ask it about."""

from collections.abc import Iterator, Sequence

from hanpaca import Completion, Delta, Message, Sampling, Usage

CAPITALS = [
    ("法国", "法国的首都是巴黎，位于塞纳河畔。法国的国花是鸢尾花。"),
    ("日本", "日本的首都是东京。东京塔高三百三十三米。"),
    ("peru", "The capital of Peru is Lima. Peru grows more than three thousand kinds of potatoes."),
    ("chile", "The capital of Chile is Santiago. Chile is the longest country in the world."),
]


class Scripted:
    """A model whose answers are known, to see what it is asked: a character is a token."""

    name = "scripted"
    kind = "chat"
    languages: tuple[str, ...] = ("en", "zh")
    reads = False
    reason = "stop"
    """Why it ends its answers."""

    def __init__(self, *answers: str, window: int = 4096) -> None:
        self.context_length = window
        self.answers = list(answers)
        self.asked: list[list[Message]] = []
        self.batches: list[int] = []

    def count_tokens(self, text: str | Sequence[Message]) -> int:
        return len(text) if isinstance(text, str) else 8 + sum(len(message.content) + 6 for message in text)

    def prompt_tokens(self, prompt: str) -> list[int]:
        return [ord(character) for character in prompt]

    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Completion:
        assert sampling is not None and sampling.max_tokens is not None
        assert self.count_tokens(messages) + sampling.max_tokens <= self.context_length
        self.asked.append(list(messages))
        text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Completion(text, self.reason, Usage(self.count_tokens(messages), len(text)))

    def chat_batch(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None
    ) -> list[Completion]:
        self.batches.append(len(conversations))
        return [self.chat(messages, sampling) for messages in conversations]

    def stream_chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Iterator[Delta]:
        completion = self.chat(messages, sampling)
        for at in range(0, len(completion.text), 2):
            yield Delta(completion.text[at : at + 2])
        yield Delta("", completion.finish_reason, completion.usage)
