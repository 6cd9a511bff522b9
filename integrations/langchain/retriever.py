"""`HanpacaRetriever`: passages of a library as LangChain documents. Translates types and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, PrivateAttr

from ...core.adapting import refuse_unknown
from ...rag import Filters, Hit, Library
from ...rag.adapting import Opened, id_of_passage
from ...rag.retrieval import check_options


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

    _libraries: Opened[tuple[Path, str | None], Library] = PrivateAttr(default_factory=Opened)
    """By folder and embedder."""

    def __init__(self, *args: Any, **values: Any) -> None:
        refuse_unknown(type(self).__name__, values, type(self).model_fields)
        given = values.get("library")
        if isinstance(given, Library):
            values["library"] = given.folder
        super().__init__(*args, **values)
        check_options(self.k, self.mode)
        if isinstance(given, Library):
            self._libraries = Opened({(self.library, self.embedder): given})

    @property
    def opened(self) -> Library:
        """The library, opened at first use. Raises `BadInput` where there is none."""
        folder, embedder = Path(self.library), self.embedder
        return self._libraries.get(
            (folder, embedder), lambda: Library.open(folder.expanduser(), embedder=embedder, create=False)
        )

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **changed: Any
    ) -> list[Document]:
        return self._found(query, self._search(changed))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **changed: Any
    ) -> list[Document]:
        # Opening the library may load the embedder: that too happens off the event loop.
        return await asyncio.to_thread(self._found, query, self._search(changed))

    def _found(self, query: str, options: dict[str, Any]) -> list[Document]:
        library = self.opened
        return [to_document(hit, library.folder) for hit in library.search(query, **options)]

    def _search(self, changed: dict[str, Any]) -> dict[str, Any]:
        own = {"k": self.k, "mode": self.mode, "filters": self.filters}
        refuse_unknown(f"one call of {type(self).__name__}", changed, own)
        # for prompts, in which what stands around a passage distracts small models
        return {**own, **changed, "fill": False}


def to_document(hit: Hit, library: Path) -> Document:
    """A passage of the library in a folder as a LangChain document, with an id that no other library's has."""
    return Document(
        id=id_of_passage(library, hit),
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
