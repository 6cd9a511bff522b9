"""Every error Hanpaca raises on purpose.

    HanpacaError
    ├── BadInput                 what was given cannot be used           (exit code 2)
    │   ├── ModelNotFound        no such model, file or catalog name
    │   ├── BadModelFile         a model file is broken, truncated or of the wrong kind
    │   ├── ContextOverflow      prompt + wanted tokens exceed the context
    │   ├── UnsupportedFeature   the model or engine cannot do this; nothing was silently ignored
    │   ├── UnreadableDocument   a document gives no text
    │   └── LibraryMismatch      a library was made with other settings (for example another embedder)
    ├── EngineUnavailable        a package or a device that is needed is missing
    ├── DownloadFailed           a hub could not be reached, or refused, or sent a wrong file
    ├── LibraryBusy              another process is writing to the library
    ├── Busy                     the request queue is full; try again later
    ├── Closed                   the model was closed while, or before, it was asked
    ├── TimedOut                 the request's own time limit passed
    └── EngineFailure            the native engine failed on this request

Each carries two sentences: what is wrong, and what to do next (`hint`).
"""

from __future__ import annotations


class HanpacaError(Exception):
    """Base of all. `str(error)` is both sentences; `problem` and `hint` are one each."""

    exit_code = 1

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem} {self.hint}".strip()


class BadInput(HanpacaError, ValueError):
    """What was given cannot be used; the message lists what can."""

    exit_code = 2


class ModelNotFound(BadInput):
    """No such model, file or catalog name."""


class BadModelFile(BadInput):
    """A model file is broken, truncated or of the wrong kind."""


class ContextOverflow(BadInput):
    """The prompt and the tokens wanted after it exceed the context."""


class UnsupportedFeature(BadInput):
    """The model or the engine cannot do what was asked; nothing was silently ignored."""


class UnreadableDocument(BadInput):
    """A document gives no text."""


class EmptyDocument(UnreadableDocument):
    """A document is well and has no text."""


class LibraryMismatch(BadInput):
    """A library was made with other settings than those asked for now."""


class EngineUnavailable(HanpacaError):
    """A package or a device that is needed is missing."""


class DownloadFailed(HanpacaError):
    """A hub could not be reached, refused, or sent a wrong file."""


class LibraryBusy(HanpacaError):
    """Another process is writing to the library."""


class Busy(HanpacaError):
    """The request queue is full."""


class Closed(HanpacaError):
    """The model was closed while, or before, it was asked."""


class TimedOut(HanpacaError):
    """The request's own time limit passed."""


class EngineFailure(HanpacaError):
    """The native engine failed on this request, or cannot do it in this process: a fork has not its threads."""
