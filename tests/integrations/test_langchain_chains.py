"""LangChain chains: the loader, the ways to answer, summaries, agents and graphs."""

import asyncio
import functools
import operator
import pickle
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.runnables import RunnableGenerator
from langgraph.graph import END, START, StateGraph
from loops import ENDLESS, stops_soon, ticking, two_slides, wire
from pydantic import BaseModel
from typing_extensions import TypedDict

import hanpaca
from hanpaca import Message, Sampling
from hanpaca.core.errors import BadInput, UnreadableDocument
from hanpaca.integrations.langchain import (
    ChatHanpaca,
    HanpacaLoader,
    HanpacaRetriever,
    document_summary,
    question_answering,
)
from hanpaca.integrations.langchain.through import ThroughLangChain
from hanpaca.rag import Library
from hanpaca.rag.readers import read
from hanpaca.rag.short_answer import GREEDY

pytestmark = pytest.mark.usefixtures("smollm2")
TEXT = "Llamas live in the Andes. A grown llama carries a load of thirty kilograms.\n"
ALPACAS = "Alpacas give wool. The wool of an alpaca is softer than that of a sheep.\n"
LONG = " ".join(f"Llama number {number} walked over mountain {number} and ate grass." for number in range(120))
QUESTION = "What load does a grown llama carry?"


def chat(**options: Any) -> ChatHanpaca:
    usual = {"model": "smollm2", "temperature": 0, "max_tokens": 30, "load_options": {"threads": 1}}
    return ChatHanpaca(**{**usual, **options})


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "llamas.txt").write_text(TEXT, encoding="utf-8")
    (folder / "alpacas.txt").write_text(ALPACAS, encoding="utf-8")
    (folder / "long.txt").write_text(LONG, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def retriever(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HanpacaRetriever]:
    with Library.open(tmp_path_factory.mktemp("library")) as library:
        library.sync([documents])
        yield HanpacaRetriever(library=library, k=2)


class Calls(BaseCallbackHandler):
    """Counts what LangChain tells of the model's work."""

    def __init__(self) -> None:
        self.started = 0

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.started += 1


# -- loader ---------------------------------------------------------------------------------------------------------


async def test_a_loader_reads_files_folders_and_slides(documents: Path, tmp_path: Path) -> None:
    found = HanpacaLoader(documents).load()
    assert [document.page_content for document in found] == [ALPACAS, TEXT, LONG]
    assert found[0].metadata["source"] == str(documents / "alpacas.txt")
    file = two_slides(tmp_path / "two.pptx")
    slides = [document async for document in HanpacaLoader(str(file)).alazy_load()]
    assert [slide.metadata["page"] for slide in slides] == ["1", "2"]
    text = read(file).text
    assert all(text[s.metadata["start"] : s.metadata["end"]] == s.page_content for s in slides)
    assert HanpacaLoader([file], unit="file").load()[0].page_content == text


def test_a_loader_says_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "traditional.txt").write_bytes("羊駝生活在安地斯山脈，牠們的毛很柔軟。".encode("big5"))
    with pytest.raises(UnreadableDocument):
        HanpacaLoader(tmp_path).load()
    found = HanpacaLoader(tmp_path, skip_unreadable=True).load()
    assert [document.metadata["encoding"].lower() for document in found] == ["big5"]
    with pytest.raises(BadInput):
        HanpacaLoader(tmp_path / "none.txt").load()


# -- question and answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "calls"),
    [("stuff", range(1, 2)), ("refine", range(2, 20)), ("map_reduce", range(3, 20)), ("extract", range(1))],
)
async def test_every_way_to_answer_is_a_runnable(retriever: HanpacaRetriever, mode: str, calls: range) -> None:
    chain = question_answering(retriever, chat(), mode=mode)
    heard = Calls()
    whole = chain.invoke(QUESTION, {"callbacks": [heard]})
    assert whole["mode"] == mode
    assert whole["answer"]
    if mode == "extract":
        assert "thirty" in whole["answer"]
    assert heard.started in calls
    assert whole["context"][0].metadata["file"].endswith("llamas.txt")
    heard = Calls()
    pieces = [piece async for piece in chain.astream(QUESTION, {"callbacks": [heard]})]
    assert heard.started in calls
    assert "sources" in pieces[-1]
    assert "".join(piece.get("answer", "") for piece in pieces[:-1])
    assert len(await chain.abatch([QUESTION, QUESTION])) == 2


@pytest.mark.parametrize("mode", ["stuff", "refine", "map_reduce"])
async def test_a_cancelled_chain_stops_the_model(
    retriever: HanpacaRetriever, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = chat(context=8192, max_tokens=2000, logit_bias=ENDLESS)
    await model.ainvoke("hello", max_tokens=1)
    sent = wire(model.loaded().engine, monkeypatch)
    chain = question_answering(retriever, model, mode=mode, abstain=False)
    async with ticking() as ticks:
        task = asyncio.create_task(chain.ainvoke(QUESTION))
        while not sent:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ticks.seconds < 10
    assert ticks.longest < 0.4
    assert await stops_soon(model.loaded().engine)


def test_a_chain_needs_no_model(retriever: HanpacaRetriever) -> None:
    result = question_answering(retriever).invoke(QUESTION)
    assert result["mode"] == "extract"
    assert "thirty kilograms" in result["answer"]
    source = result["sources"][0]
    assert TEXT[source["start"] : source["end"]] == source["quote"]


async def test_a_question_may_arrive_as_a_dict_that_grows(retriever: HanpacaRetriever) -> None:
    chain: Any = RunnableGenerator(written) | JsonOutputParser() | question_answering(retriever)
    whole = chain.invoke("")
    assert functools.reduce(operator.add, chain.stream("")) == whole
    assert "thirty kilograms" in whole["answer"]
    streamed = [chunk async for chunk in question_answering(retriever).atransform(growing())]
    assert "".join(chunk.get("answer", "") for chunk in streamed) == whole["answer"]
    with pytest.raises(BadInput, match="question, history"):
        list(question_answering(retriever).transform(iter([])))


def written(_: Iterator[str]) -> Iterator[str]:
    yield '{"question": "What load does '
    yield 'a grown llama carry?"}'


async def growing() -> AsyncIterator[Any]:
    for question in ("What load does", QUESTION):
        yield {"question": question}


def test_the_parts_of_a_chain_pickle(retriever: HanpacaRetriever) -> None:
    copies = pickle.loads(pickle.dumps((retriever, chat())))
    assert question_answering(*copies, mode="extract").invoke(QUESTION)["answer"]
    copies[0].opened.close()


# -- summaries ------------------------------------------------------------------------------------------------------


async def test_a_document_of_any_length_becomes_a_summary(documents: Path, retriever: HanpacaRetriever) -> None:
    model, heard = chat(context=1024, max_tokens=40), Calls()
    chain = document_summary(model, retriever)
    from_library = chain.invoke("long.txt", {"callbacks": [heard]})
    assert from_library["summary"]
    assert from_library["mode"] == "map_reduce"
    assert heard.started > 2
    loaded = HanpacaLoader(documents / "long.txt").load()
    assert (await chain.ainvoke(loaded))["summary"]
    assert (await chain.ainvoke(Document(TEXT)))["summary"]


def test_a_summary_without_a_model_quotes(documents: Path) -> None:
    loaded = HanpacaLoader(documents / "long.txt").load()
    result = document_summary().invoke(loaded)
    assert result["mode"] == "extract"
    assert result["sources"]
    assert all(LONG[s["start"] : s["end"]] == s["quote"] for s in result["sources"])
    with pytest.raises(BadInput, match="retriever"):
        document_summary().invoke("long.txt")
    with pytest.raises(BadInput, match="document"):
        document_summary().invoke([])


async def test_a_cancelled_summary_stops_the_model(documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat(context=2048, max_tokens=400, logit_bias=ENDLESS)
    await model.ainvoke("hello", max_tokens=1)
    sent = wire(model.loaded().engine, monkeypatch)
    task = asyncio.create_task(document_summary(model).ainvoke(HanpacaLoader(documents / "long.txt").load()))
    while not sent:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stops_soon(model.loaded().engine)


# -- agents and graphs ----------------------------------------------------------------------------------------------


class Animal(BaseModel):
    """An animal."""

    name: str
    legs: int


async def test_an_agent_of_langchain_with_structured_output() -> None:
    agent = create_agent(chat(max_tokens=80), tools=[], response_format=Animal)
    asked: Any = {"messages": [HumanMessage("Describe a llama: its name and number of legs.")]}
    assert isinstance(agent.invoke(asked)["structured_response"], Animal)
    assert isinstance((await agent.ainvoke(asked))["structured_response"], Animal)


def test_an_agent_without_tools_just_answers() -> None:
    result = create_agent(chat(), tools=[]).invoke({"messages": [HumanMessage("Name a colour.")]})
    assert result["messages"][-1].text


class State(TypedDict):
    """A draft and what was said of it."""

    messages: Annotated[list[AnyMessage], operator.add]
    rounds: int


async def test_a_graph_loops_until_it_is_content() -> None:
    model = chat(max_tokens=16)

    async def write(state: State) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])], "rounds": state["rounds"] + 1}

    def judge(state: State) -> dict[str, Any]:
        return {"messages": [HumanMessage("Say it shorter.")]}

    graph = StateGraph(State)
    graph.add_node("write", write)
    graph.add_node("judge", judge)
    graph.add_edge(START, "write")
    graph.add_conditional_edges("write", lambda state: END if state["rounds"] == 3 else "judge")
    graph.add_edge("judge", "write")
    app = graph.compile()
    state: Any = {"messages": [HumanMessage("What is a llama?")], "rounds": 0}
    result = await app.ainvoke(state)
    assert [message.type for message in result["messages"]] == ["human", "ai"] * 3
    tokens = [piece async for piece in app.astream(state, stream_mode="messages")]
    assert len(tokens) > 6


def test_a_reader_tells_the_chain_how_sure_it_is() -> None:
    """Through LangChain's messages come the log-probabilities that decide whether its words are shown."""
    asked = [Message("system", "Answer."), Message("user", "[1] The load is thirty kilograms.\n\nQuestion: How heavy?")]
    sampling = Sampling(max_tokens=8, **GREEDY)
    with hanpaca.load("smollm2-reader", threads=1) as model:
        wanted = model.chat(asked, sampling)
    through = ThroughLangChain(chat(model="smollm2-reader"), None)
    found = through.chat(asked, sampling)
    assert through.reads and found.text == wanted.text
    assert [one.logprob for one in found.logprobs] == pytest.approx([one.logprob for one in wanted.logprobs], abs=1e-3)
    assert len(found.logprobs) > 0
