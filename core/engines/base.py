"""What an engine is: the contract between `model.py` and whatever produces tokens.

Knows no engine. An engine takes token ids and gives text: templates belong to `chat.py`, threads and queues to
`streams.py`. To add an engine, implement `Engine` and name it in `engines/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ..sampling import Sampling

FINISH_REASONS = ("stop", "length")
"""`stop`: the model ended its answer or a stop text came. `length`: max_tokens was reached."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int = 0
    """Tokens in the prompt, those found in the cache included."""
    completion_tokens: int = 0
    """Tokens generated, an end-of-sequence token included."""
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were there already."""

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class TokenLogprob:
    """One generated token with its natural-log probability before sampling settings were applied."""

    token: int
    text: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()
    """The likeliest tokens here: (id, bytes, log-probability), likeliest first."""


@dataclass(frozen=True)
class Delta:
    """A piece of an answer. The last one of a stream, and only it, has `finish_reason` and `usage`."""

    text: str = ""
    """Whole characters only; may be empty."""
    finish_reason: str | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    text: str
    finish_reason: str
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, eq=False)
class Request:
    """One prompt with everything that decides its answer."""

    tokens: Sequence[int]
    """Prompt ids, BOS included where the model wants one. Never empty."""
    sampling: Sampling = field(default_factory=Sampling)
    """`max_tokens` is set, and tokens + max_tokens fit `context`."""
    context: int = 0
    """The length that decides the request's RoPE plan; 0 means the native one."""


Listener = Callable[[Delta | BaseException], None]
"""Called from the engine's thread with each delta, then with a last delta or an error. It must not block."""


class Handle(Protocol):
    """A request under way."""

    def cancel(self) -> None:
        """Stop the work within one step. Idempotent, callable from any thread; the listener hears no more."""


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer is, as far as templates need it."""

    size: int
    bos: int | None
    eos: int | None
    ends: frozenset[int]
    """Every id that ends an answer (EOS, end of turn)."""
    add_bos: bool


@runtime_checkable
class Engine(Protocol):
    """Tokens in, text out. Every method may be called from any thread."""

    vocabulary: Vocabulary
    native_context: int
    """Positions the model was trained on, its own RoPE scaling included."""
    context: int
    """Most tokens of prompt and answer together, context extension included."""
    chat_template: str | None
    """The Jinja template in the model's metadata, if any."""
    identity: str
    """Weights, adapters and settings in one line: two engines that can answer differently differ here."""

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`, no BOS. With `special`, control tokens written in the text are parsed: never for
        content. The empty string gives []."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to the text; b"" for control tokens."""
        ...

    def submit(self, request: Request, listener: Listener) -> Handle:
        """Queue a request. Raises `Closed`, `Busy` or `BadInput` at once; later errors go to the listener."""
        ...

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural-log probabilities of each token of each continuation after `prompt`, which is never empty."""
        ...

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """One vector per token list, of unit length; `UnsupportedFeature` for models that do not embed."""
        ...

    def close(self) -> None:
        """Stop all work (callers hear `Closed`) and free the memory. Idempotent, safe while in use."""
        ...
