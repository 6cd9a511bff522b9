"""Where libraries live, and which model answers when nobody says.

Knows folders and the catalog; opens and loads nothing.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ...core.errors import BadInput

BUNDLED = "smollm2"
READER = "smollm2-reader"
"""The bundled model for questions about documents."""
MODEL_OPTIONS = ("context", "kv_type", "threads", "prompt_lookup")
"""What `arguments.add_model` adds besides the model's name, by the names in a namespace."""
NO_MODEL = "none"
"""The name that asks for quotations, without a model."""


def library_folder(chosen: str) -> Path:
    """A folder for `--library`: a path if it has a slash or begins with a dot or tilde, else a name in the user's
    data folder."""
    if chosen.startswith("~"):
        try:
            return Path(chosen).expanduser()
        except RuntimeError as error:
            raise BadInput(
                f"{chosen}: there is no such home folder.", f"Write the whole path, or ./{chosen} for one of this name."
            ) from error
    if os.sep in chosen or chosen.startswith("."):
        return Path(chosen)
    from ...rag.names import library_folder as named

    return named(chosen)


def named_model(chosen: str | None) -> str | None:
    """`--model`, else $HANPACA_MODEL."""
    return chosen or os.environ.get("HANPACA_MODEL")


def no_model(chosen: str | None) -> bool:
    """Whether quotations are asked for, without a model."""
    return named_model(chosen) == NO_MODEL


def model_name(chosen: str | None, bundled: str = BUNDLED) -> str:
    """`--model`, else $HANPACA_MODEL, else the largest chat model that was pulled, else the bundled one."""
    return named_model(chosen) or pulled_chat_model() or bundled


def model_options(found: argparse.Namespace, bundled: str = BUNDLED) -> dict[str, Any]:
    """Options of `load` that the command line names."""
    threads = found.threads
    if threads is None and model_name(found.model, bundled) in (BUNDLED, READER) and not getattr(found, "many", False):
        # So small a model gains little from a second thread where it writes one answer, and loses much where other
        # programs run: its threads wait for each other hundreds of times for a token.
        threads = 1
    given = {name: getattr(found, name) for name in MODEL_OPTIONS} | {"threads": threads}
    if (memory := getattr(found, "prefix_memory", None)) is not None:
        given["prefix_memory"] = memory * 2**20
    return {name: value for name, value in given.items() if value is not None}


def pulled_chat_model() -> str | None:
    """The name of the largest chat model of the catalog that is on this machine."""
    from ...core.cache import find_gguf
    from ...core.catalog import entries

    chats = [known for known in entries() if known.kind == "chat" and known.gguf and find_gguf(known.gguf)]
    best = max(chats, key=lambda known: known.parameters, default=None)
    return best.name if best else None
