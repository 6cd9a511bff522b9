"""What the routes of one server share: the model, the libraries, the figures, and whether it is stopping.

Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path

from ...core import Model
from ...core.errors import Closed, HanpacaError
from ...rag.embedding import BUNDLED, Embedder, load_embedder
from .documents_library import Libraries
from .errors import NoSuchModel
from .metrics import Metrics
from .settings import ServerSettings

log = logging.getLogger("hanpaca.server")


class Service:
    """One server's state. Made before the event loop runs; `start` and `stop` run in it."""

    def __init__(self, settings: ServerSettings, model: Model | None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.libraries = Libraries(settings, self.metrics)
        self.created = int(time.time())
        self.draining = False
        self.failure: str | None = None
        self._model = model
        self._embedder: Embedder | None = None
        self._loaded = model is None

    @property
    def names(self) -> tuple[str, ...]:
        """What clients may call the model; the first is the one shown."""
        if self._model is None:
            return ()
        own = (self.settings.served_name, short_name(self._model.name), self._model.name)
        return tuple(dict.fromkeys(name for name in own if name))

    def model(self, name: str | None) -> Model:
        """The model that a request names (None: the only one). Raises `NoSuchModel`, and `Closed` while stopping."""
        if self.draining:
            raise Closed("The server is stopping.", "Try again when it runs.")
        if self._model is None:
            raise NoSuchModel("This server runs without a language model.", "Start it with --model.")
        if name is not None and name not in self.names:
            raise NoSuchModel(f"There is no model {name[:80]!r} here.", f"This server serves {self.names[0]}.")
        return self._model

    async def loaded_model(self, name: str | None) -> Model:
        """`model` with its weights in memory. Raises what loading them raised."""
        model = self.model(name)
        if not self._loaded:
            await asyncio.to_thread(lambda: model.engine)
            self._loaded = True
        return model

    @property
    def embedder_name(self) -> str:
        """What clients call the embedder."""
        return BUNDLED

    @property
    def ready(self) -> bool:
        """Whether a request would be answered at once: the weights are there."""
        return self._loaded and not self.draining

    def embedder(self) -> Embedder:
        """The bundled embedder, loaded at first use."""
        if self._embedder is None:
            self._embedder = load_embedder(BUNDLED)
        return self._embedder

    async def start(self) -> None:
        """Load the weights, and go on with uploads that an earlier run left unread."""
        self._loading = asyncio.create_task(self._load())
        await asyncio.to_thread(self.libraries.resume)

    async def _load(self) -> None:
        if self._model is None:
            return
        model = self._model
        try:
            await asyncio.to_thread(lambda: model.engine)
            self._loaded = True
        except HanpacaError as error:
            self.failure = str(error)
            log.error("the model cannot be loaded: %s", error)

    async def cut(self) -> None:
        """End the answers under way: their clients hear that the server stops."""
        self.draining = True
        if self._model is not None:
            await asyncio.to_thread(self._model.close)

    async def stop(self) -> None:
        """End all work and let go of everything."""
        self.draining = True
        self._loading.cancel()
        with suppress(asyncio.CancelledError):
            await self._loading
        await asyncio.to_thread(self.libraries.close)
        await self.cut()


def short_name(name: str) -> str:
    """A model's name without folders and suffix: "models/alpaca.Q4_K.gguf" → "alpaca.Q4_K"."""
    return Path(name).stem if name.endswith(".gguf") else Path(name).name if "#" not in name else name.split("#")[-1]
