"""The LlamaIndex embedder, retriever and reader, and the engines that LlamaIndex builds of them."""

import asyncio
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from llama_index.core import Settings, SimpleDirectoryReader, StorageContext, VectorStoreIndex
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.readers.base import BaseReader
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import MetadataMode, QueryBundle
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.vector_stores.chroma import ChromaVectorStore
from loops import recorded, slow, text_of, ticking, two_slides, wire

from hanpaca.core.errors import BadInput, UnreadableDocument
from hanpaca.integrations.llama_index import HanpacaEmbedding, HanpacaLLM, HanpacaReader, HanpacaRetriever
from hanpaca.integrations.llama_index import embedding as embedding_module
from hanpaca.integrations.llama_index import reader as reader_module
from hanpaca.rag import Library
from hanpaca.rag.e5 import E5Embedder
from hanpaca.rag.embedding import load_embedder
from hanpaca.rag.loading import Part
from hanpaca.rag.readers import read

TEXT = "# Llamas\n\nLlamas live in the Andes. A grown llama carries a load of thirty kilograms.\n"
QUANTIZATION = "量化用更少的位数保存模型权重。Q2_K 最省内存。\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = tmp_path_factory.mktemp("documents")
    (documents / "llamas.md").write_text(TEXT, encoding="utf-8")
    (documents / "量化.txt").write_bytes(QUANTIZATION.encode("gb18030"))
    return documents


@pytest.fixture(scope="module")
def library(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("library")
    with Library.open(place) as opened:
        opened.sync([folder])
    return place


@pytest.fixture
def model(smollm2: Path) -> HanpacaLLM:
    return HanpacaLLM(model="smollm2", temperature=0, max_tokens=40, load_options={"threads": 1})


@pytest.fixture
def settings(model: HanpacaLLM) -> Iterator[None]:
    """LlamaIndex's global settings, as a user sets them."""
    Settings.llm, Settings.embed_model = model, HanpacaEmbedding()
    Settings.tokenizer = model.loaded().engine.tokenize
    yield
    Settings.llm = Settings.embed_model = Settings._tokenizer = None  # type: ignore[assignment]


# -- embedding ------------------------------------------------------------------------------------------------------


def test_vectors_are_the_embedders_with_its_prefixes() -> None:
    embedding, own = HanpacaEmbedding(), load_embedder()
    assert np.allclose(embedding.get_query_embedding("What is a llama?"), own.embed_queries(["What is a llama?"])[0])
    passages = ["羊驼是一种动物。", "A llama."]
    assert np.allclose(embedding.get_text_embedding_batch(passages), own.embed_passages(passages))
    question = embedding.get_query_embedding(passages[0])
    assert not np.allclose(question, embedding.get_text_embedding(passages[0]))


async def test_embedding_is_the_same_asynchronous() -> None:
    embedding = HanpacaEmbedding()
    expected = embedding.get_text_embedding_batch(["a", "b"])
    assert np.allclose(await embedding.aget_text_embedding_batch(["a", "b"]), expected)
    assert np.allclose(await embedding.aget_text_embedding("b"), expected[1])
    assert np.allclose(await embedding.aget_query_embedding("a"), embedding.get_query_embedding("a"))


async def test_embedding_never_holds_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = HanpacaEmbedding()
    for name in ("embed_passages", "embed_queries"):
        slow(monkeypatch, E5Embedder, name)
    async with ticking() as ticks:
        await embedding.aget_text_embedding("a")
        await embedding.aget_text_embedding_batch(["a", "b"])
        await embedding.aget_query_embedding("a")
    assert ticks.longest < 0.4 < 0.7 * 3 < ticks.seconds


async def test_embeddings_at_the_same_time_load_one_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, embedding_module, "load_embedder")
    loads = recorded(monkeypatch, embedding_module, "load_embedder")
    embedding = HanpacaEmbedding()
    await asyncio.gather(*[embedding.aget_query_embedding("a") for _ in range(8)])
    assert len(loads) == 1


def test_what_is_no_text_is_not_embedded() -> None:
    for embed in (HanpacaEmbedding().get_text_embedding, HanpacaEmbedding().get_query_embedding):
        with pytest.raises(BadInput, match="NoneType"):
            embed(None)


def test_an_embedder_loads_late_and_pickles_without_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = recorded(monkeypatch, embedding_module, "load_embedder")
    embedding = HanpacaEmbedding(embed_batch_size=3)
    assert not loads
    embedding.get_query_embedding("a")
    copy = pickle.loads(pickle.dumps(embedding))
    assert len(loads) == 1
    assert copy.embed_batch_size == 3
    assert np.allclose(copy.get_query_embedding("a"), embedding.get_query_embedding("a"))
    assert len(loads) == 2


# -- retriever ------------------------------------------------------------------------------------------------------


async def test_nodes_say_where_they_come_from(library: Path) -> None:
    retriever = HanpacaRetriever(library, k=1)
    found = retriever.retrieve("What does a llama carry?")[0]
    assert found.metadata["file"].endswith("llamas.md")
    assert found.metadata["headings"] == "Llamas"
    assert found.score
    node = found.node
    assert TEXT[node.start_char_idx : node.end_char_idx] == node.text  # type: ignore[attr-defined]
    assert "passage_id" not in node.get_content(MetadataMode.LLM)
    assert (await retriever.aretrieve(QueryBundle("What does a llama carry?")))[0].node_id == found.node_id


async def test_a_retriever_opens_its_library_off_the_loop(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, Library, "open")
    async with ticking() as ticks:
        await HanpacaRetriever(library, mode="vectors").aretrieve("llama")
    assert ticks.longest < 0.4


async def test_a_retriever_searches_off_the_loop(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, Library, "search")
    async with ticking() as ticks:
        await HanpacaRetriever(library, mode="keywords").aretrieve("llama")
    assert ticks.longest < 0.4 < 0.7 < ticks.seconds


async def test_questions_at_the_same_time_open_one_library(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, Library, "open")
    opens = recorded(monkeypatch, Library, "open")
    retriever = HanpacaRetriever(library, mode="keywords")
    await asyncio.gather(*[retriever.aretrieve("llama") for _ in range(8)])
    assert len(opens) == 1


def test_one_question_may_want_more_passages(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opens = recorded(monkeypatch, Library, "open")
    retriever = HanpacaRetriever(library, k=1, mode="vectors")
    assert len(retriever.retrieve("llama")) == 1
    assert len(retriever.replace(k=2).retrieve("llama")) == 2
    assert len(retriever.replace(mode="keywords", filters={"files": "llamas.md"}).retrieve("llama")) == 1
    assert (retriever.k, retriever.mode, len(opens)) == (1, "vectors", 1)
    with pytest.raises(BadInput, match="Valid: filters, k, mode"):
        retriever.replace(top_k=2)
    with pytest.raises(BadInput, match="at least 1"):
        retriever.replace(k=0)


def test_a_retriever_refuses_what_no_library_can_do(library: Path) -> None:
    with pytest.raises(BadInput, match="whole number of at least 1, not '2'"):
        HanpacaRetriever(library, k="2")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="Valid: hybrid, keywords, vectors"):
        HanpacaRetriever(library, mode="bm25")


def test_nodes_of_two_libraries_have_ids_of_their_own(folder: Path, library: Path, tmp_path: Path) -> None:
    with Library.open(tmp_path / "other") as other:
        other.sync([folder])
    found = [HanpacaRetriever(place, k=2).retrieve("llama") for place in (library, other.folder, library)]
    ids = [[node.node_id for node in nodes] for nodes in found]
    assert len({*ids[0], *ids[1]}) == 4
    assert ids[0] == ids[2]
    assert {node.metadata["passage_id"] for node in found[0]} == {node.metadata["passage_id"] for node in found[1]}


def test_a_retriever_in_another_process_opens_its_own(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = recorded(monkeypatch, Library, "open")
    retriever = HanpacaRetriever(library, k=1)
    expected = retriever.retrieve("llama")
    assert pickle.loads(pickle.dumps(retriever)).retrieve("llama") == expected
    assert len(opens) == 2
    with pytest.raises(BadInput, match="no library"):
        HanpacaRetriever(tmp_path).retrieve("llama")


# -- reader ---------------------------------------------------------------------------------------------------------


def test_a_reader_reads_a_folder_in_any_encoding(folder: Path) -> None:
    documents = HanpacaReader().load_data(folder, extra_info={"topic": "animals"})
    assert [document.text for document in documents] == [TEXT, QUANTIZATION]
    assert documents[1].metadata["encoding"].lower() == "gb18030"
    assert documents[0].metadata["topic"] == "animals"
    assert "encoding" not in documents[1].get_content(MetadataMode.LLM)


def test_slides_are_documents_of_their_own(tmp_path: Path) -> None:
    file = two_slides(tmp_path / "two.pptx")
    whole = read(file).text
    slides = list(HanpacaReader().lazy_load_data(file))
    assert [slide.metadata["page"] for slide in slides] == ["1", "2"]
    assert all(whole[slide.metadata["start"] : slide.metadata["end"]] == slide.text for slide in slides)
    assert "Alpacas" in slides[1].text
    assert [document.text for document in HanpacaReader(unit="file").load_data(file)] == [whole]


def test_unreadable_files_raise_or_are_left_out(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "good.txt").write_text("Good.")
    with pytest.raises(UnreadableDocument, match="empty"):
        HanpacaReader().load_data(tmp_path)
    assert [d.text for d in HanpacaReader(skip_unreadable=True).load_data(tmp_path)] == ["Good."]


def test_a_reader_refuses_what_it_does_not_know(folder: Path) -> None:
    with pytest.raises(BadInput, match="Valid: page, file"):
        HanpacaReader(unit="chapter")
    with pytest.raises(BadInput, match="Valid: encoding, skip_unreadable, unit"):
        HanpacaReader(input_files=[folder])
    with pytest.raises(BadInput, match="Valid: extra_info, file"):
        HanpacaReader().load_data(folder, recursive=True)
    with pytest.raises(BadInput, match="None is no path"):
        HanpacaReader().load_data(None)


def test_documents_have_the_same_ids_at_each_load(tmp_path: Path, folder: Path) -> None:
    file = two_slides(tmp_path / "two.pptx")
    ids = [document.id_ for document in HanpacaReader().load_data([folder, file])]
    assert len(set(ids)) == 4
    assert [document.id_ for document in HanpacaReader().load_data([folder, file])] == ids
    assert HanpacaReader(unit="file").load_data(file)[0].id_ not in ids


def test_pages_of_one_number_are_two_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [Part("Foreword.", {"file": "a.pdf", "page": "1"}), Part("Chapter.", {"file": "a.pdf", "page": "1"})]
    monkeypatch.setattr(reader_module, "load_parts", lambda paths, **options: iter(parts))
    assert len({document.id_ for document in HanpacaReader().load_data("a.pdf")}) == 2


def test_a_pipeline_takes_only_what_has_changed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Llamas eat grass.", encoding="utf-8")
    (tmp_path / "b.txt").write_text("Alpacas give wool.", encoding="utf-8")
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(), HanpacaEmbedding()],
        docstore=SimpleDocumentStore(),
        vector_store=SimpleVectorStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
    )
    assert len(pipeline.run(documents=HanpacaReader().load_data(tmp_path))) == 2
    (tmp_path / "b.txt").write_text("Alpacas give fine wool.", encoding="utf-8")
    nodes = pipeline.run(documents=HanpacaReader().load_data(tmp_path))
    assert [node.get_content() for node in nodes] == ["Alpacas give fine wool."]


def test_an_index_is_refreshed_by_what_has_changed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Llamas eat grass.", encoding="utf-8")
    (tmp_path / "b.txt").write_text("Alpacas give wool.", encoding="utf-8")
    index = VectorStoreIndex.from_documents(HanpacaReader().load_data(tmp_path), embed_model=HanpacaEmbedding())
    (tmp_path / "b.txt").write_text("Alpacas give fine wool.", encoding="utf-8")
    assert index.refresh_ref_docs(HanpacaReader().load_data(tmp_path)) == [False, True]
    assert len(index.ref_doc_info) == 2


def test_a_reader_serves_in_llama_indexs_own_directory_reader(folder: Path) -> None:
    extractors: dict[str, BaseReader] = dict.fromkeys([".md", ".txt"], HanpacaReader())
    documents = SimpleDirectoryReader(str(folder), file_extractor=extractors).load_data()
    assert sorted(document.text for document in documents) == sorted([TEXT, QUANTIZATION])
    assert all(document.metadata["file_name"] for document in documents)


# -- engines --------------------------------------------------------------------------------------------------------


QUESTION = "What load does a grown llama carry?"


def check_prompts(model: HanpacaLLM, requests: list[Any]) -> None:
    """What a small model makes of a passage is its own affair; that it was given question and passage is ours."""
    texts = [text_of(model.loaded().engine, request) for request in requests]
    assert texts
    assert all("thirty kilograms" in text and QUESTION in text for text in texts)


@pytest.mark.usefixtures("settings")
def test_a_query_engine_over_a_vector_store_index_in_chroma(
    folder: Path, model: HanpacaLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = wire(model.loaded().engine, monkeypatch)
    collection = chromadb.EphemeralClient().create_collection("llamas")
    storage = StorageContext.from_defaults(vector_store=ChromaVectorStore(chroma_collection=collection))
    splitter = SentenceSplitter(chunk_size=128, chunk_overlap=0)
    nodes = IngestionPipeline(transformations=[splitter]).run(documents=HanpacaReader().load_data(folder))
    index = VectorStoreIndex(nodes, storage_context=storage)
    response = index.as_query_engine(similarity_top_k=1).query(QUESTION)
    assert response.source_nodes[0].metadata["file"].endswith("llamas.md")
    streamed: Any = index.as_query_engine(similarity_top_k=1, streaming=True).query(QUESTION)
    assert str(response)
    assert "".join(streamed.response_gen)
    check_prompts(model, sent)


@pytest.mark.usefixtures("settings")
async def test_a_chat_engine_keeps_the_conversation(
    folder: Path, model: HanpacaLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = VectorStoreIndex.from_documents(HanpacaReader().load_data(folder))
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
    engine = index.as_chat_engine(chat_mode=ChatMode.CONTEXT, similarity_top_k=1, memory=memory)
    sent = wire(model.loaded().engine, monkeypatch)
    first = str(engine.chat(QUESTION))
    assert str(await engine.achat("How much is that in pounds?"))
    assert len(engine.chat_history) == 4
    assert "".join(engine.stream_chat("Where does it live?").response_gen)
    check_prompts(model, sent)
    assert first in text_of(model.loaded().engine, sent[-1])


@pytest.mark.parametrize("mode", [ResponseMode.COMPACT, ResponseMode.REFINE, ResponseMode.TREE_SUMMARIZE])
def test_a_retriever_query_engine_over_our_retriever(
    library: Path, model: HanpacaLLM, mode: ResponseMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = RetrieverQueryEngine.from_args(HanpacaRetriever(library, k=1), llm=model, response_mode=mode)
    sent = wire(model.loaded().engine, monkeypatch)
    response = engine.query(QUESTION)
    assert response.source_nodes[0].metadata["file"].endswith("llamas.md")
    assert str(response)
    assert str(asyncio.run(engine.aquery(QUESTION)))
    check_prompts(model, sent)
