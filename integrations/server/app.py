"""Puts a server together. Loads no weights; they load when the server starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from ... import __version__
from ...core import Model
from . import documents_api, errors, health_api, openai_api, page_api
from .metrics import Watch
from .security import Guard
from .service import Service
from .settings import ServerSettings

THREADS = 64
"""Most requests that wait in a thread at the same time: answers from documents, searches, uploads."""


def create_app(settings: ServerSettings | None = None, model: Model | None = None) -> FastAPI:
    """The server of one model and its libraries; without a model it quotes documents. It closes the model at its end.

    Run it with `running.run`, or with any ASGI server that has one worker: several would each load the weights.
    """
    service = Service(settings or ServerSettings(), model)
    app = FastAPI(
        title="Hanpaca", version=__version__, lifespan=_lifespan, docs_url=None, redoc_url=None,
        description="An OpenAI-compatible API over one model, and questions to documents.",
    )  # fmt: skip
    app.state.service = service
    for router in (openai_api.router, documents_api.router, health_api.router, page_api.router):
        app.include_router(router)
    errors.install(app)
    app.add_middleware(Guard, settings=service.settings)
    app.add_middleware(Watch, metrics=service.metrics)
    app.add_middleware(Heads)
    return app


class Heads:
    """HEAD is answered as GET; the server that runs the app leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD" and not scope["path"].endswith("/events"):
            scope = {**scope, "method": "GET"}  # a copy: the server knows by its own that no body is to be sent
        await self._app(scope, receive, send)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    service: Service = app.state.service
    pool = ThreadPoolExecutor(THREADS, "hanpaca-server")
    asyncio.get_running_loop().set_default_executor(pool)
    await service.start()
    try:
        yield
    finally:
        await service.stop()
