"""How tokens are produced: a table of engines, none of which is imported before it is used.

To add an engine, implement `base.Engine` in a module here and name its opener, a function of (source, options),
in the table.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedFeature

if TYPE_CHECKING:
    from ..catalog import ModelSource
    from .base import Engine

ENGINES: Mapping[str, str] = {
    "llama_cpp": "llama_cpp:open_engine",
    "transformers": "transformers:open_engine",
    "remote": "remote:open_engine",
}


def open_engine(source: ModelSource, options: Mapping[str, Any]) -> Engine:
    """The engine of a source, weights loaded. Raises `BadInput` for options that it does not have."""
    if source.engine not in ENGINES:
        raise UnsupportedFeature(f"There is no engine {source.engine!r}.", "Known: " + ", ".join(ENGINES) + ".")
    module, name = ENGINES[source.engine].split(":")
    engine: Engine = getattr(importlib.import_module(f".{module}", __name__), name)(source, options)
    return engine
