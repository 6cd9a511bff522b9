"""`document_summary`: a LangChain chain from a document of any length to a summary.

The summarising itself is `hanpaca.rag`'s: part by part in one batch, then the parts' summaries. Its model is a
`ChatHanpaca`, called through LangChain, so that callbacks, tracing, caches and rate limits see every call.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from ...core.errors import BadInput
from ...rag import Answer, Hit
from ...rag.summary import refuse_language, summarize, summarize_passages
from .chat import ChatHanpaca
from .retriever import HanpacaRetriever
from .through import ThroughLangChain, refuse_others

Summarized = str | Path | Document | Sequence[Document]


def document_summary(
    chat: ChatHanpaca | None = None, retriever: HanpacaRetriever | None = None, *, language: str | None = None
) -> Runnable[Summarized, dict[str, Any]]:
    """A chain from a document to a dict: `summary`, `sources`, `notes`, `mode`.

    The input is a document or the documents of one file, as loaders give them; with `retriever` also the name of a file
    in its library. The summary is in the document's language unless another ("zh", "en") is named. `chat` None
    summarises by quotation, and so does a chat model that does not speak the language; `sources` are the quotations.
    Raises `BadInput` for other classes and languages than these, and for a document without text.
    """
    refuse_others(chat, retriever)
    refuse_language(language)

    def run(given: Summarized, through: ThroughLangChain | None) -> dict[str, Any]:
        sampling = chat.sampling() if chat is not None else None
        if isinstance(given, str | Path):
            if retriever is None:
                raise BadInput(
                    "A file is summarised from a library.", "Give document_summary a retriever, or documents."
                )
            return _told(summarize(retriever.opened, through, given, language=language, sampling=sampling))
        documents = [given] if isinstance(given, Document) else given
        if not (isinstance(documents, Sequence) and documents and all(isinstance(one, Document) for one in documents)):
            raise BadInput("The chain takes a document, documents, or a file of a library.", "Give one of them.")
        hits = _hits(documents)
        title = PurePath(hits[0].file).name
        return _told(summarize_passages(through, hits, title=title, language=language, sampling=sampling))

    def invoke(given: Summarized, config: RunnableConfig) -> dict[str, Any]:
        return run(given, ThroughLangChain(chat, config) if chat is not None else None)

    async def ainvoke(given: Summarized, config: RunnableConfig) -> dict[str, Any]:
        if chat is None:
            return await asyncio.to_thread(run, given, None)
        through = await asyncio.to_thread(ThroughLangChain, chat, config, asyncio.get_running_loop())
        return await through.in_thread(run, given, through)

    return RunnableLambda(invoke, ainvoke, name="document_summary")


def _hits(documents: Sequence[Document]) -> list[Hit]:
    """Documents as passages that follow each other. Places are read where they are those of our own readers: the start
    that other loaders give may be a time."""
    hits, at = list[Hit](), 0
    for number, document in enumerate(documents):
        told = document.metadata
        start, end, line = told.get("start"), told.get("end"), told.get("line")
        if not (isinstance(start, int) and isinstance(end, int) and end - start == len(document.page_content)):
            start = at
        line = line if isinstance(line, int) else 1
        at = start + len(document.page_content)
        file, page = str(told.get("file") or told.get("source") or "document"), told.get("page")
        place = None if page is None else str(page)
        hits.append(Hit(number, document.page_content, file, place, line, (), start, at, 0.0))
    return hits


def _told(answer: Answer) -> dict[str, Any]:
    sources = [dataclasses.asdict(citation) for citation in answer.citations]
    return {"summary": answer.text, "sources": sources, "notes": list(answer.notes), "mode": answer.mode}
