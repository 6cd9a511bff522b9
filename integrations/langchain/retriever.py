"""`HanpacaRetriever`: passages of a library as LangChain documents. Translates types and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, PrivateAttr

from ...core.adapting import refuse_unknown
from ...rag import Filters, Hit, Library


class HanpacaRetriever(BaseRetriever):
    """The passages of a library that answer a question best.

    >>> HanpacaRetriever(library="~/library", k=3).invoke("How large is the 7B model?")   # doctest: +SKIP

    Building one opens nothing. The metadata of each document has `file`, `page` (None where the format has none),
    `line`, `headings`, `start`, `end`, `score` and `passage_id`. `k`, `mode` and `filters` can be given again for one
    call: `retriever.invoke(question, k=8)`.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    library: Path
    """The library's folder. An open `Library` may be given too."""
    k: int = Field(default=5, ge=1)
    """How many passages."""
    mode: str = "hybrid"
    """hybrid, keywords or vectors."""
    filters: Filters | None = None
    embedder: str | None = None
    """The embedding model; None is the one that the library was made with."""

    _opened: tuple[tuple[Path, str | None], Library] | None = PrivateAttr(default=None)
    """The folder and the embedder, and the library opened with them."""

    def __init__(self, *args: Any, **values: Any) -> None:
        refuse_unknown(type(self).__name__, values, type(self).model_fields)
        given = values.get("library")
        if isinstance(given, Library):
            values["library"] = given.folder
        super().__init__(*args, **values)
        if isinstance(given, Library):
            self._opened = ((self.library, self.embedder), given)

    def __getstate__(self) -> dict[Any, Any]:
        """Everything but the open library: a copy in another process opens its own."""
        return {**super().__getstate__(), "__pydantic_private__": {"_opened": None}}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares the open library."""
        memo = {} if memo is None else memo
        memo[id(self._opened)] = self._opened
        return super().__deepcopy__(memo)

    @property
    def opened(self) -> Library:
        """The library, opened at first use. Raises `BadInput` where there is none."""
        opened, wanted = self._opened, (Path(self.library), self.embedder)
        if opened is None or opened[0] != wanted:
            library = Library.open(wanted[0].expanduser(), embedder=self.embedder, create=False)
            opened = self._opened = (wanted, library)
        return opened[1]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **changed: Any
    ) -> list[Document]:
        return [to_document(hit) for hit in self.opened.search(query, **self._search(changed))]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **changed: Any
    ) -> list[Document]:
        # Opening the library may load the embedder: that too happens off the event loop.
        options = self._search(changed)
        return await asyncio.to_thread(lambda: [to_document(hit) for hit in self.opened.search(query, **options)])

    def _search(self, changed: dict[str, Any]) -> dict[str, Any]:
        own = {"k": self.k, "mode": self.mode, "filters": self.filters}
        refuse_unknown(f"one call of {type(self).__name__}", changed, own)
        # for prompts, in which what stands around a passage distracts small models
        return {**own, **changed, "fill": False}


def to_document(hit: Hit) -> Document:
    """A passage as a LangChain document; its id is the passage's."""
    return Document(
        id=str(hit.passage_id),
        page_content=hit.text,
        metadata={
            "source": hit.file,
            "file": hit.file,
            "page": hit.page,
            "line": hit.line,
            "headings": list(hit.headings),
            "start": hit.start,
            "end": hit.end,
            "score": hit.score,
            "passage_id": hit.passage_id,
        },
    )
