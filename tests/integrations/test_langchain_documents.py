"""LangChain's retriever, embeddings and loader: off the loop, opened once, and with errors that say what to give."""

import asyncio
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from loops import recorded, slow, ticking

from hanpaca.core.errors import BadInput
from hanpaca.integrations.langchain import HanpacaEmbeddings, HanpacaLoader, HanpacaRetriever
from hanpaca.integrations.langchain import embeddings as embeddings_module
from hanpaca.rag import Library
from hanpaca.rag.e5 import E5Embedder


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of the same documents."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "llamas.txt").write_text("A llama carries a load of thirty kilograms.", encoding="utf-8")
    (folder / "alpacas.txt").write_text("An alpaca gives wool.", encoding="utf-8")
    places = [tmp_path_factory.mktemp("library") for _ in range(2)]
    for place in places:
        with Library.open(place) as library:
            library.sync([folder])
    return places


# -- the event loop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["open", "search"])
async def test_retrieving_never_holds_the_loop(
    libraries: list[Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, Library, name)
    async with ticking() as ticks:
        await HanpacaRetriever(library=libraries[0], mode="keywords").ainvoke("llama")
    assert ticks.longest < 0.4 < 0.7 < ticks.seconds


async def test_embedding_never_holds_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("embed_passages", "embed_queries"):
        slow(monkeypatch, E5Embedder, name)
    async with ticking() as ticks:
        await HanpacaEmbeddings().aembed_documents(["a", "b"])
        await HanpacaEmbeddings().aembed_query("a")
    assert ticks.longest < 0.4 < 0.7 * 2 < ticks.seconds


# -- what is open ---------------------------------------------------------------------------------------------------


async def test_questions_at_the_same_time_open_one_library(
    libraries: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, Library, "open")
    opens = recorded(monkeypatch, Library, "open")
    await HanpacaRetriever(library=libraries[0], mode="keywords").abatch(["llama"] * 8)
    assert len(opens) == 1


async def test_texts_at_the_same_time_load_one_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, embeddings_module, "load_embedder")
    loads = recorded(monkeypatch, embeddings_module, "load_embedder")
    embeddings = HanpacaEmbeddings()
    await asyncio.gather(*[embeddings.aembed_query("a") for _ in range(8)])
    assert len(loads) == 1


def test_copies_share_what_is_open_and_pickles_open_their_own(
    libraries: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opens, loads = recorded(monkeypatch, Library, "open"), recorded(monkeypatch, embeddings_module, "load_embedder")
    retriever, embeddings = HanpacaRetriever(library=libraries[0]), HanpacaEmbeddings()
    library, embedder = retriever.opened, embeddings.embedder
    for other in (copy.deepcopy(retriever), retriever.model_copy(update={"k": 8})):
        assert other.opened is library
    assert copy.deepcopy(embeddings).embedder is embedder
    assert (len(opens), len(loads)) == (1, 1)
    assert pickle.loads(pickle.dumps(retriever)).opened is not library
    assert pickle.loads(pickle.dumps(embeddings)).embedder is not embedder
    assert (len(opens), len(loads)) == (2, 2)


def test_what_is_open_makes_no_difference(libraries: list[Path]) -> None:
    retriever = HanpacaRetriever(library=libraries[0])
    assert retriever.opened
    assert retriever == HanpacaRetriever(library=libraries[0])
    assert retriever != HanpacaRetriever(library=libraries[1])


# -- ids ------------------------------------------------------------------------------------------------------------


def test_documents_of_two_libraries_lie_in_one_store(libraries: list[Path]) -> None:
    store = InMemoryVectorStore(HanpacaEmbeddings())
    found = [HanpacaRetriever(library=place).invoke("llama") for place in libraries]
    for documents in [*found, HanpacaRetriever(library=libraries[0]).invoke("llama")]:
        store.add_documents(documents)
    assert len(store.store) == 4
    assert [document.metadata["passage_id"] for document in found[0]] == [
        document.metadata["passage_id"] for document in found[1]
    ]


# -- errors ---------------------------------------------------------------------------------------------------------


# Of no type, as a caller without a type checker gives them.
NONE: Any = None
NUMBER: Any = 3
LETTERS: Any = "abc"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda place: HanpacaRetriever(library=place).invoke("llama", k="3"), "whole number of at least 1, not '3'"),
        (lambda place: HanpacaRetriever(library=place).invoke(NONE), "question is of type NoneType"),
        (lambda place: HanpacaRetriever(library=place, mode="bm25"), "Valid: hybrid, keywords, vectors"),
        (lambda place: HanpacaEmbeddings().embed_query(NONE), "of type NoneType"),
        (lambda place: HanpacaEmbeddings().embed_documents(["a", NONE]), "Text 1 is of type NoneType"),
        (lambda place: HanpacaEmbeddings().embed_documents(LETTERS), "Give a list"),
        (lambda place: HanpacaEmbeddings().embed_documents(NONE), "Give a list"),
        (lambda place: HanpacaLoader(NONE), "None is no path"),
        (lambda place: HanpacaLoader([place, NUMBER]), "3 is no path"),
        (lambda place: HanpacaLoader(place, unit="chapter"), "Valid: page, file"),
        (lambda place: HanpacaLoader(place, glob="*.txt"), "Valid: encoding, paths, skip_unreadable, unit"),
    ],
)
def test_what_cannot_be_used_is_refused(libraries: list[Path], wrong: Callable[[Path], Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        wrong(libraries[0])
