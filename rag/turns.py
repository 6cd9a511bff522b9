"""Earlier turns of conversations as they stood before the model, so that a follow-up's prompt begins with the same
tokens: an engine that keeps what it computed then reads only what is new.

In memory only, and forgotten with the library. Knows no model.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ..core.chat import Message
from .hits import Hit, unchanged
from .store import Store

REMEMBERED = 64
"""Turns, the latest."""


@dataclass(frozen=True)
class Turn:
    """A prompt that was answered."""

    messages: tuple[Message, ...]
    hits: tuple[Hit, ...]
    """Its passages, by their source numbers from 1."""
    question: str
    """What was searched for."""


class Turns:
    """The latest turns of all conversations over one library. Thread-safe."""

    def __init__(self) -> None:
        self._turns: dict[Hashable, Turn] = {}
        self._lock = threading.Lock()

    def remember(self, said: Sequence[Message], setting: Hashable, turn: Turn) -> None:
        """The prompt for a conversation that ends with a question. `setting` is all else that chose the passages."""
        with self._lock:
            self._turns.pop(key := _key(said, setting), None)
            self._turns[key] = turn
            while len(self._turns) > REMEMBERED:
                del self._turns[next(iter(self._turns))]

    def before(self, history: Sequence[Message], setting: Hashable, store: Store) -> Turn | None:
        """The turn whose answer ends `history`, that answer included; None where it is not known, or where a passage
        of it has been changed or deleted since."""
        if not history or history[-1].role != "assistant":
            return None
        with self._lock:
            turn = self._turns.get(_key(history[:-1], setting))
        if turn is None or not unchanged(store, turn.hits):
            return None
        return Turn((*turn.messages, history[-1]), turn.hits, turn.question)


def _key(said: Sequence[Message], setting: Hashable) -> Hashable:
    return (tuple((message.role, message.content) for message in said), setting)
