"""A run that is asked to stop ends after the step that it is at, with its state saved. Knows no data and no model."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl+C, and what `kill`, systemd, Slurm and Docker send first."""
AGAIN = 1.0
"""Seconds after which a signal is a second one: launchers pass Ctrl+C on to a process that has it already."""


class Stop:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self, hears: Callable[[str], None]) -> None:
        self.signal: int | None = None
        self._since = 0.0
        self._hears = hears

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler: a second signal stops at once, without what came after the last checkpoint."""
        if self.signal is not None:
            if time.monotonic() - self._since >= AGAIN:
                leave(number)
            return
        self.signal, self._since = number, time.monotonic()
        with suppress(OSError, RuntimeError, ValueError):  # Ctrl+C ends `| tee` too, or a line is being written
            self._hears("Stopping when this step is done and its state is saved; once more stops at once")


def leave(number: int) -> None:
    """End as the signal would have done."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


@contextmanager
def stopping(hears: Callable[[str], None]) -> Iterator[Stop]:
    """Signals ask the run to stop; outside of the main thread, or where somebody else answers them, they do as ever."""
    stop = Stop(hears)
    known = (signal.default_int_handler, signal.SIG_DFL)
    ours: list[tuple[int, Any]] = []
    if threading.current_thread() is threading.main_thread():
        ours = [(one, before) for one in SIGNALS if (before := signal.getsignal(one)) in known]
    try:
        for number, _ in ours:
            signal.signal(number, stop)
        yield stop
    finally:
        for number, before in ours:
            signal.signal(number, before)


@cache
def stopper_class() -> Any:
    """A callback of the Trainer; made when first used, for transformers is heavy."""
    import transformers

    class Stopper(transformers.TrainerCallback):
        """Saves after the step during which the signal came, and ends."""

        def __init__(self, stop: Stop) -> None:
            self._stop = stop

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self._stop.signal is not None and state.global_step < state.max_steps:
                control.should_log = control.should_save = control.should_training_stop = True

    return Stopper
