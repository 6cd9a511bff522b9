"""A real server on loopback: uvicorn in a thread of the tests' process, so that its model can be looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from hanpaca.core import Model
from hanpaca.integrations.server import ServerSettings, create_app
from hanpaca.integrations.server.running import Server, listen, url_of


@dataclass
class Running:
    """A server under way, and what belongs to it."""

    url: str
    model: Model | None
    app: Any
    server: Server

    @property
    def api(self) -> str:
        return f"{self.url}/v1"

    @property
    def engine(self) -> Any:
        assert self.model is not None
        return self.model.engine


@contextmanager
def serving(model: Model | None, **settings: Any) -> Iterator[Running]:
    """A server with a free port; stopped in good order at the end. No library of the user's is touched."""
    settings.setdefault("libraries_root", settings["library_folder"].parent / "named")
    chosen = ServerSettings(**{"port": 0, "requests_per_minute": 0, "grace": 1.0, **settings})
    app = create_app(chosen, model)
    started = threading.Event()
    with listen(chosen) as own:
        server = Server(app, started.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]}, daemon=True)
        thread.start()
        try:
            assert started.wait(60)
            yield Running(url_of(own), model, app, server)
        finally:
            if not server.should_exit:  # a second signal would end it without order
                server.handle_exit(2, None)
            thread.join(60)
            assert not thread.is_alive(), "the server did not stop"


def until(condition: Any, seconds: float = 60.0) -> Any:
    """The first true value of `condition()`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not come true in time")


def stands_still(engine: Any) -> bool:
    """Whether the engine computes nothing any more."""
    for _ in range(12):
        before = engine.computed
        time.sleep(0.5)
        if engine.computed == before:
            return True
    return False


def ready_document(running: Running, id: str, client: httpx.Client | None = None) -> dict[str, Any]:
    """A document's status once it is ready or has failed."""

    def over() -> Any:
        told = (client or httpx).get(f"{running.api}/documents/{id}", timeout=60).json()
        return told if told["status"] in ("ready", "failed") else None

    found: dict[str, Any] = until(over, 120)
    return found
