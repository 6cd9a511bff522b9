"""What an answer must match, a grammar or a JSON schema, token by token: llguidance's parser over a model's tokens.

llguidance has limits of its own, but not of time: a constraint that takes too much of it is given up. Knows no engine.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, EngineFailure, EngineUnavailable, UnsupportedFeature
from ..sampling import Sampling
from .gbnf import Tokenize, lark_of
from .json_limits import place_of
from .json_schema import lark_of_schema

if TYPE_CHECKING:
    from llguidance import LLTokenizer

T = TypeVar("T")
_OPTIONS = '%llguidance {"no_forcing": true}\n'
"""Any tokens that spell the text are allowed, not only those that the tokenizer would choose."""
_ROOM = 256 * 2**20
"""Bytes of stack for reading a grammar."""
MOST_READING, MOST_SECONDS, MOST_A_TOKEN = 20.0, 2.0, 0.02
"""Seconds for reading a grammar; of computing for all tokens of an answer, and for each of them besides."""
_starting = threading.Lock()
_NAMED = re.compile(r"(?<=\")\w+(?=\")|\boneOf\b|(?<=format: )\S+\b")
"""The keyword or format that an error is about."""
MOST_ITEMS = 5_000
"""States of the parser after one character. Lists written as `list ::= item list` take one for each item."""


class Tokens:
    """A vocabulary as llguidance keeps it, made when it is first needed and shared by all constraints of a model."""

    def __init__(self, size: int, piece: Callable[[int], bytes], ends: Collection[int], tokenize: Tokenize) -> None:
        self.size, self.ends, self.tokenize = size, frozenset(ends), tokenize
        self.piece = piece
        self._made: LLTokenizer | None = None

    def made(self) -> LLTokenizer:
        """Takes a tenth of a second for 50,000 tokens. Raises `EngineUnavailable` without the package."""
        if self._made is None:
            try:
                from llguidance import LLTokenizer, TokenizerWrapper
            except ImportError as error:
                raise EngineUnavailable(
                    f"Grammars and JSON schemas need the package llguidance: {error}.", "pip install llguidance"
                ) from error
            pieces = [self.piece(token) for token in range(self.size)]
            wrapped = TokenizerWrapper(_Wrapped(pieces, self.ends))
            self._made = LLTokenizer(wrapped, eos_token=sorted(self.ends) or None)
        return self._made


class _Wrapped:
    """What llguidance asks of a tokenizer; nothing is forced, so nothing is tokenized. To it a byte FF marks what is no
    text, and such tokens are none."""

    bos_token_id = None

    def __init__(self, pieces: list[bytes], ends: Collection[int]) -> None:
        self.tokens = [b"" if piece[:1] == b"\xff" else piece for piece in pieces]
        self.eos_token_id = min(ends, default=None)
        self.special_token_ids: list[int] = []

    def __call__(self, text: bytes) -> list[int]:
        return []


class Constraint:
    """What one answer may go on with. Use it on one thread at a time."""

    def __init__(self, tokens: Tokens, lark: str, what: str) -> None:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(max_items_in_row=MOST_ITEMS, verbose_errors=False)
        self._size, self._ends, self._what = tokens.size, tokens.ends, what
        self.spent, self._accepted = 0.0, 0
        """Seconds of computing, and tokens."""
        made = tokens.made()
        self._matcher = _with_room(what, lambda: LLMatcher(made, _OPTIONS + lark, log_level=0, limits=limits))
        self._check("cannot be enforced", "Change that part of it.")

    @classmethod
    def of(cls, sampling: Sampling, tokens: Tokens) -> Constraint | None:
        """That of the settings, or None. Raises `BadInput` for a grammar or a schema that is none, and
        `UnsupportedFeature` for one that cannot be enforced."""
        if (schema := sampling.json_schema) is not None:
            try:
                return cls(tokens, lark_of_schema(schema), "JSON schema")
            except UnsupportedFeature as error:
                if place := place_of(_NAMED.findall(error.problem), schema):
                    raise UnsupportedFeature(f"{error.problem.rstrip('.')} (at {place}).", error.hint) from error
                raise
        if sampling.grammar is not None:
            return cls(tokens, lark_of(sampling.grammar, tokens.tokenize), "grammar")
        return None

    def allows(self, token: int) -> bool:
        """Whether the answer may go on with a token."""
        if token in self._ends:  # of which llguidance says no once nothing else may come
            return bool(self._timed(self._matcher.is_accepting))
        return self._timed(lambda: self._matcher.validate_tokens([token])) == 1

    def allowed(self, forbidden: Sequence[int] = ()) -> NDArray[np.bool_]:
        """Of each token whether the answer may go on with it, (vocabulary,), and it is not `forbidden` besides.

        Raises `UnsupportedFeature` where none is left.
        """
        bits = np.frombuffer(self._timed(self._matcher.compute_bitmask), np.uint8)
        found = np.unpackbits(bits, count=self._size, bitorder="little").astype(np.bool_)
        if not self._matcher.is_accepting():  # to llguidance an end is one of any tokens
            found[list(self._ends)] = False
        found[list(forbidden)] = False
        if not found.any():
            raise UnsupportedFeature(
                f"The {self._what} and the other settings leave no token to go on with.",
                f"Check logit_bias against the {self._what}.",
            )
        return found

    def accept(self, token: int) -> None:
        """Go on with a token that is allowed."""
        self._timed(lambda: self._matcher.consume_token(token))
        self._accepted += 1

    def _timed(self, call: Callable[[], T]) -> T:
        """What `call` returns. Raises `UnsupportedFeature` where the matcher fails, or took too much of this thread."""
        start = time.thread_time()
        found = call()
        self.spent += time.thread_time() - start
        self._check()
        if self.spent > MOST_SECONDS + MOST_A_TOKEN * self._accepted:
            raise UnsupportedFeature(
                f"The {self._what} takes too long: {self.spent:.1f} seconds for {self._accepted} tokens.",
                "Simplify it.",
            )
        return found

    def _check(self, problem: str = "became too complex", hint: str = "Simplify it.") -> None:
        if not self._matcher.is_error():
            return
        why = self._matcher.get_error()
        if "NoExtension" in why:
            raise BadInput(f"The {self._what} leaves no text to go on with.", "Give it a way to end.")
        raise UnsupportedFeature(f"The {self._what} {problem}: {_first_words(why)}.", hint)


def _with_room(what: str, call: Callable[[], T]) -> T:
    """What `call` returns. llguidance goes into rules and references within one another with its stack, whose end is
    the process's; in the largest text there is room for so many that they need half of `_ROOM`. A thread that others
    start in the same instant gets as much."""
    found: list[T] = []
    with _starting:
        before = threading.stack_size(_ROOM)
        try:
            thread = threading.Thread(target=lambda: found.append(call()), name="hanpaca grammar", daemon=True)
            thread.start()
        except RuntimeError as error:
            raise EngineFailure(f"There is no memory for reading the {what}.", "Simplify it.") from error
        finally:
            threading.stack_size(before)
    thread.join(MOST_READING)
    if not found:
        raise UnsupportedFeature(f"The {what} cannot be read in {MOST_READING:.0f} seconds.", "Simplify it.")
    return found[0]


def _first_words(error: str) -> str:
    """llguidance's reason without its state, the source it quotes, where in its own notation it is, and its options."""
    text = re.split(r"\n<|\n +1 \||\. Enable '|; consider |; try ", error)[0]
    if text.endswith("oneOf constraints are not supported"):
        text = "oneOf of schemas that may both match; anyOf can be"
    text = re.sub(r"^(at \d+\(\d+\): )?(failed to compile JSON schema: )?", "", text)
    if text.startswith("panic"):
        text = "it is too large"
    return re.sub(r"\s+", " ", text)[:300].rstrip(". ")
