"""Whether the server lives, whether it can answer, and its figures for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from .metrics import CONTENT_TYPE
from .openai_api import service_of

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/health/ready", response_model=None)
async def ready(request: Request) -> Response:
    """The weights are loaded and the server is not stopping."""
    service = service_of(request)
    if service.ready:
        return JSONResponse({"status": "ready"})
    state = "failed" if service.failure else "stopping" if service.draining else "loading"
    return JSONResponse({"status": state}, 503, {"Retry-After": "1"})


@router.get("/metrics", response_model=None)
async def metrics(request: Request) -> Response:
    """Figures in Prometheus' text format."""
    return Response(service_of(request).metrics.text(), media_type=CONTENT_TYPE)
