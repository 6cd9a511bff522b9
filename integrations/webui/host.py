"""The host's own modules, found when they are needed. The one place that knows what they are called.

Written for and run against commit ed888c71 of text-generation-webui ("textgen"). Knows nothing of Hanpaca's models.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from typing import Any

from ...core.errors import HanpacaError

log = logging.getLogger("hanpaca.webui")
NO_MODEL = (None, "None")
"""What the host calls the model while it has none."""
LLAMA_CPP = "llama.cpp"
"""The loader under which the host imports neither PyTorch nor transformers."""


def module(name: str) -> Any:
    """`modules.NAME` of the host."""
    return importlib.import_module(f"modules.{name}")


def shared() -> Any:
    """The host's global state."""
    return module("shared")


def user_data() -> Path:
    """Where the host keeps what is the user's."""
    return Path(shared().user_data_dir)


def multi_user() -> bool:
    """Whether people share this host who must not see each other's documents."""
    return bool(getattr(shared().args, "multi_user", False))


def extension_name(script: Any) -> str:
    """What the host calls an extension: its folder's name."""
    return str(Path(script.__file__).parent.name)


def stopped(state: dict[str, Any]) -> bool:
    """Whether somebody pressed Stop, or the client of the API went away."""
    event = state.get("stop_event")
    return bool(shared().stop_everything) or (event is not None and bool(event.is_set()))


def told(error: HanpacaError) -> Exception:
    """The error in the form that reaches the user: the page shows no other exception's text."""
    gradio = sys.modules.get("gradio")
    log.error("%s", error)
    return gradio.Error(str(error)) if gradio is not None else error


def user() -> str | None:
    """Who is asking: the name logged in with, or the page's own session; None outside of the page (the API)."""
    context = sys.modules.get("gradio.context")
    request = None if context is None else context.LocalContext.request.get(None)
    if request is None:
        return None
    name = getattr(request, "username", None)
    if name:
        return f"user {name}"
    session = getattr(request, "session_hash", None)
    return f"session {session}" if session else None
