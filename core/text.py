"""Tokens → text: whole UTF-8 characters only, and stop strings that may span tokens.

Knows no engine: it is fed the bytes of each token and says what may be shown.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns token bytes into text that is safe to show.

    An incomplete UTF-8 sequence waits for its rest; bytes that can never become a character show as U+FFFD. Text
    that may be the start of a stop string waits until it is clear that it is not. A stop string itself, and all
    after it, is never shown.

    >>> stream = TextStream(stop=["。"])
    >>> stream.feed("你".encode()[:2]), stream.feed("你".encode()[2:] + "好。再".encode()), stream.stopped
    ('', '你好', True)
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=0)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""

    def feed(self, data: bytes) -> str:
        """The text that `data` makes certain; empty while nothing new is."""
        return self._release(self._decode(data), final=False)

    def finish(self) -> str:
        """What was still held back; call once, after the last token."""
        return self._release(self._decode(b"", True), final=True)

    def _release(self, text: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        if not self._stop:
            return text
        self._held += text
        cut = min((at for stop in self._stop if (at := self._held.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            shown, self._held = self._held[:cut], ""
            return shown
        keep = 0 if final else self._undecided()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def _undecided(self) -> int:
        """Length of the longest tail that is a proper prefix of a stop string."""
        for length in range(min(self._longest - 1, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0
