"""What clients of the documents API send. Unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .openai_types import Strict


class LibraryRequest(Strict):
    """`POST /v1/libraries`."""

    name: Annotated[str, Field(min_length=1)]


class SearchRequest(Strict):
    """`POST /v1/search`."""

    query: str
    library: str | None = None
    k: Annotated[int, Field(ge=1, le=100)] = 5
    mode: Literal["hybrid", "keywords", "vectors"] = "hybrid"
    filters: dict[str, Any] | None = None
    """files, folders, kinds, after, before."""
    neighbours: Annotated[int, Field(ge=0, le=10)] = 0
    """Widen each passage by so many before and after it."""
