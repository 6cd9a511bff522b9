"""What a copied or changed LangChain object answers with, and what the event loop waits for while it loads."""

import asyncio
import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.exceptions import OutputParserException
from langchain_core.rate_limiters import InMemoryRateLimiter
from loops import EXACT, slow, ticking
from pydantic import BaseModel

from hanpaca.core import tuning
from hanpaca.core.errors import BadInput
from hanpaca.integrations.langchain import (
    ChatHanpaca,
    HanpacaEmbeddings,
    HanpacaLLM,
    HanpacaRetriever,
    document_summary,
    question_answering,
)
from hanpaca.rag import Library

KINDS = pytest.mark.parametrize("kind", [ChatHanpaca, HanpacaLLM])
QUESTION = "What load does a llama carry?"


def build(kind: type[Any], file: Path, **options: Any) -> Any:
    return kind(**{"model": str(file), "temperature": 0, "max_tokens": 8, "load_options": EXACT, **options})


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    places = []
    for text in ("A llama carries a load of thirty kilograms.", "A llama eats grass."):
        folder, place = tmp_path_factory.mktemp("documents"), tmp_path_factory.mktemp("library")
        (folder / "llamas.txt").write_text(text, encoding="utf-8")
        with Library.open(place) as library:
            library.sync([folder])
        places.append(place)
    return places


@KINDS
def test_a_copy_with_other_options_is_another_model(kind: type[Any], tiny: Path) -> None:
    model = build(kind, tiny)
    model.invoke("the tea")
    other = model.model_copy(update={"system_prompt": "Be a pirate.", "context": 512})
    assert other.loaded().context_length == 512
    assert "Be a pirate." in other.loaded().identity
    assert other.dict() != model.dict()  # what the caches look at
    same = model.model_copy(update={"seed": 3})
    assert same.loaded() is model.loaded()


@KINDS
def test_an_option_assigned_after_a_call_counts(kind: type[Any], tiny: Path) -> None:
    model = build(kind, tiny)
    model.invoke("the tea")
    model.system_prompt, model.context = "Be a pirate.", 512
    assert model.loaded().context_length == 512
    assert "Be a pirate." in model.loaded().identity
    model.load_options = {**EXACT, "alpha": 2.0}
    assert "alpha" in model.loaded().identity


@KINDS
def test_a_deep_copy_loads_its_own(kind: type[Any], tiny: Path) -> None:
    model = build(kind, tiny)
    text = getattr(model.invoke("the tea"), "text", None) or model.invoke("the tea")
    other = copy.deepcopy(model)
    assert other.loaded() is not model.loaded()
    said = other.invoke("the tea")
    assert getattr(said, "text", said) == text


class Choice(BaseModel):
    """A choice."""

    yes: bool


class Locked(BaseCallbackHandler):
    """Callbacks that cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_copies_go_with_limits_and_pickles_without(tiny: Path) -> None:
    limiter, heard = InMemoryRateLimiter(requests_per_second=1000, check_every_n_seconds=0.01), Locked()
    model = build(ChatHanpaca, tiny, rate_limiter=limiter, callbacks=[heard])
    deep = copy.deepcopy(model)
    assert deep.rate_limiter is limiter
    assert deep.callbacks == [heard]
    pickled = pickle.loads(pickle.dumps(model))
    assert (pickled.rate_limiter, pickled.callbacks) == (None, None)
    assert (model.rate_limiter, model.callbacks) == (limiter, [heard])
    assert pickled.invoke("the tea").text == model.invoke("the tea").text
    text = pickle.loads(pickle.dumps(build(HanpacaLLM, tiny, callbacks=[heard])))
    assert text.callbacks is None


@pytest.mark.parametrize("include_raw", [False, True])
def test_a_structured_chain_pickles(tiny: Path, include_raw: bool) -> None:
    whole, cut = (
        pickle.loads(pickle.dumps(model.with_structured_output(Choice, include_raw=include_raw)))
        for model in (build(ChatHanpaca, tiny, max_tokens=60), build(ChatHanpaca, tiny, max_tokens=1))
    )
    said = whole.invoke("a")
    assert isinstance(said["parsed"] if include_raw else said, Choice)
    if include_raw:
        assert said["parsing_error"] is None
        assert isinstance(cut.invoke("a")["parsing_error"], OutputParserException)


def test_the_profile_follows_the_options(tiny: Path) -> None:
    model = build(ChatHanpaca, tiny)
    assert model.profile["max_input_tokens"] == 2048
    assert model.model_copy(update={"context": 512}).profile["max_input_tokens"] == 512
    assert model.model_copy(update={"tool_calling": True}).profile["tool_calling"] is True
    own = build(ChatHanpaca, tiny, profile={"max_input_tokens": 7})
    assert own.model_copy(update={"context": 512}).profile == {"max_input_tokens": 7}
    assert model.model_copy(update={"profile": {"max_input_tokens": 7}}).profile == {"max_input_tokens": 7}
    slow_engine = build(ChatHanpaca, tiny, load_options={"engine": "transformers"})
    assert slow_engine.profile["structured_output"] is False


def test_embeddings_follow_their_model() -> None:
    embeddings = HanpacaEmbeddings()
    expected = embeddings.embed_query("a")
    assert copy.deepcopy(embeddings).embed_query("a") == expected
    other = embeddings.model_copy(update={"model": "no-such-model"})
    with pytest.raises(Exception, match="no-such-model"):
        other.embed_query("a")
    embeddings.model = "no-such-model"
    with pytest.raises(Exception, match="no-such-model"):
        embeddings.embed_query("a")


def test_a_retriever_follows_its_folder(libraries: list[Path]) -> None:
    retriever = HanpacaRetriever(library=libraries[0], mode="keywords")
    assert "thirty" in retriever.invoke("llama")[0].page_content
    assert "thirty" in copy.deepcopy(retriever).invoke("llama")[0].page_content
    assert "grass" in retriever.model_copy(update={"library": libraries[1]}).invoke("llama")[0].page_content
    retriever.library = libraries[1]
    assert "grass" in retriever.invoke("llama")[0].page_content


async def test_question_answering_opens_its_library_off_the_loop(
    libraries: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, Library, "open")
    async with ticking() as ticks:
        await question_answering(HanpacaRetriever(library=libraries[0])).ainvoke(QUESTION)
    assert ticks.longest < 0.4


def test_question_answering_refuses_a_retriever_that_searches_one_way(libraries: list[Path]) -> None:
    with pytest.raises(BadInput, match="hybrid"):
        question_answering(HanpacaRetriever(library=libraries[0], mode="keywords"))
    retriever = HanpacaRetriever(library=libraries[0])
    chain = question_answering(retriever)
    retriever.mode = "vectors"
    with pytest.raises(BadInput, match="hybrid"):
        chain.invoke(QUESTION)


@KINDS
async def test_calls_that_overlap_while_it_loads_do_not_hold_the_loop(
    kind: type[Any], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, tuning, "prepare")
    model = build(kind, tiny, max_tokens=1)
    async with ticking() as ticks:
        first = asyncio.create_task(model.ainvoke("the tea"))
        await asyncio.sleep(0.1)
        await model.ainvoke("the tea")
        await first
    assert ticks.longest < 0.4


@pytest.mark.parametrize("start", ["00:01", 1.5, 90, True, -1])
def test_a_summary_of_documents_whose_start_is_none_of_ours(start: Any) -> None:
    told = {"start": start, "end": 95, "line": "first"}
    sources = document_summary().invoke(Document("Llamas live in the Andes.", metadata=told))["sources"]
    assert [(one["start"], one["line"]) for one in sources] == [(0, 1)]


def test_a_summary_of_documents_that_do_not_say_where_they_are(tiny: Path) -> None:
    document = Document("A llama eats grass.", metadata={"source": "a.pdf", "line": None, "start": None})
    assert document_summary().invoke([document])["summary"]
