"""Models: what adapters and users may import. Knows no framework, no documents, no terminal."""

from .chat import DEFAULT_SYSTEM_PROMPT, LONG_SYSTEM_PROMPT, Message
from .engines.base import Completion, Delta, TokenLogprob, Usage
from .errors import (
    BadInput,
    BadModelFile,
    Busy,
    Closed,
    ContextOverflow,
    DownloadFailed,
    EmptyDocument,
    EngineFailure,
    EngineUnavailable,
    HanpacaError,
    LibraryBusy,
    LibraryMismatch,
    ModelNotFound,
    TimedOut,
    UnreadableDocument,
    UnsupportedFeature,
)
from .model import Model, load
from .sampling import Sampling

__all__ = [
    "BadInput",
    "BadModelFile",
    "Busy",
    "Closed",
    "Completion",
    "ContextOverflow",
    "DEFAULT_SYSTEM_PROMPT",
    "DownloadFailed",
    "Delta",
    "EmptyDocument",
    "EngineFailure",
    "EngineUnavailable",
    "HanpacaError",
    "LONG_SYSTEM_PROMPT",
    "LibraryBusy",
    "LibraryMismatch",
    "Message",
    "Model",
    "ModelNotFound",
    "Sampling",
    "TimedOut",
    "TokenLogprob",
    "UnreadableDocument",
    "UnsupportedFeature",
    "Usage",
    "load",
]
