"""What chains and models of LangChain refuse, when they are built rather than late, and what they say to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore
from loops import EXACT

from hanpaca.core.errors import BadInput, UnreadableDocument
from hanpaca.integrations.langchain import (
    ChatHanpaca,
    HanpacaEmbeddings,
    HanpacaLLM,
    HanpacaRetriever,
    document_summary,
    question_answering,
)
from hanpaca.integrations.langchain.qa import _question
from hanpaca.rag import Library
from hanpaca.rag.summary import summarize

QUESTION = "What load does a llama carry?"
OTHERS: list[Callable[[], Any]] = [
    lambda: ChatHanpaca().bind(max_tokens=2),
    lambda: ChatHanpaca().with_config(tags=["a"]),
    HanpacaLLM,
    lambda: "smollm2",
    lambda: FakeListChatModel(responses=["a"]),
]


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> HanpacaRetriever:
    place = tmp_path_factory.mktemp("library")
    with Library.open(place) as library:
        library.add_text("A llama carries a load of thirty kilograms.", "llamas.txt")
    return HanpacaRetriever(library=place)


# -- chains ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", OTHERS)
def test_chains_take_no_other_chat_model(other: Callable[[], Any], retriever: HanpacaRetriever) -> None:
    for build in (lambda chat: question_answering(retriever, chat), document_summary):
        with pytest.raises(BadInput, match="Give a ChatHanpaca, with max_tokens"):
            build(other())


def test_chains_take_no_other_retriever(retriever: HanpacaRetriever) -> None:
    other: Any = InMemoryVectorStore(HanpacaEmbeddings()).as_retriever()
    for build in (lambda given: question_answering(given), lambda given: document_summary(None, given)):
        with pytest.raises(BadInput, match=r"HanpacaRetriever, not a VectorStoreRetriever.*prompt \| chat"):
            build(other)
    nothing: Any = None
    with pytest.raises(BadInput, match="Give a HanpacaRetriever"):
        question_answering(nothing)


def test_a_retriever_with_a_search_of_its_own_is_told_that_it_is_not_used(retriever: HanpacaRetriever) -> None:
    class Own(HanpacaRetriever):
        def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
            return []

    class Few(HanpacaRetriever):
        k: int = 1

    library: Any = retriever.opened
    with pytest.raises(BadInput, match="Own has a search of its own"):
        question_answering(Own(library=library))
    assert question_answering(Few(library=library)).invoke(QUESTION)["context"]


def test_a_way_to_answer_is_checked_when_the_chain_is_built(retriever: HanpacaRetriever) -> None:
    with pytest.raises(BadInput, match="Valid: auto, stuff, focus, refine, map_reduce, extract"):
        question_answering(retriever, mode="mapreduce")


@pytest.mark.parametrize("question", [None, 3, {"question": None}, {"question": ["a"]}, {"history": []}])
def test_a_question_is_a_text(question: Any, retriever: HanpacaRetriever) -> None:
    with pytest.raises(BadInput, match="question, history"):
        question_answering(retriever).invoke(question)


@pytest.mark.parametrize("history", ["hi", 3, [3], [{"role": "narrator", "content": "a"}], {"a": "b"}])
def test_a_history_is_a_list_of_messages(history: Any, retriever: HanpacaRetriever) -> None:
    with pytest.raises(BadInput, match="history"):
        question_answering(retriever).invoke({"question": QUESTION, "history": history})


def test_tool_calls_are_no_part_of_what_was_said() -> None:
    call: Any = {"name": "look_up", "args": {}, "id": "1"}
    spoken = [HumanMessage("Tell me of llamas."), AIMessage("They live in the Andes.")]
    history = [spoken[0], AIMessage("", tool_calls=[call]), ToolMessage("Andes", tool_call_id="1"), spoken[1]]
    assert _question({"question": QUESTION, "history": history}) == _question({"question": QUESTION, "history": spoken})


# -- summaries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, 3, [], ["a"], [None]])
def test_a_summary_is_of_documents(given: Any) -> None:
    with pytest.raises(BadInput, match="a document, documents"):
        document_summary().invoke(given)


def test_a_document_without_text_has_no_summary(tiny: Path) -> None:
    chat = ChatHanpaca(model=str(tiny), load_options=EXACT)
    for chain in (document_summary(), document_summary(chat)):
        with pytest.raises(UnreadableDocument, match=r"holds no text.*Give a document with text"):
            chain.invoke([Document(" \n"), Document("")])


@pytest.mark.parametrize("language", ["fr", "English", ""])
def test_a_summary_is_in_chinese_or_english(language: str, retriever: HanpacaRetriever) -> None:
    with pytest.raises(BadInput, match="Valid: zh, en"):
        document_summary(language=language)
    with pytest.raises(BadInput, match="Valid: zh, en"):
        summarize(retriever.opened, None, "llamas.txt", language=language)


# -- models ---------------------------------------------------------------------------------------------------------


def test_log_probabilities_are_counted(tiny: Path) -> None:
    for given in (True, False):
        with pytest.raises(BadInput, match=r"logprobs.*It counts alternatives"):
            ChatHanpaca(model=str(tiny), logprobs=given)
        with pytest.raises(BadInput, match=r"logprobs.*It counts alternatives"):
            ChatHanpaca(model=str(tiny), load_options=EXACT).invoke("a", logprobs=given)


@pytest.mark.parametrize("kind", [ChatHanpaca, HanpacaLLM])
@pytest.mark.parametrize(
    "name", ["context", "max_tokens", "seed", "top_k", "temperature", "timeout", "stop", "json_schema"]
)
def test_true_is_no_number(kind: Callable[..., Any], name: str, tiny: Path) -> None:
    with pytest.raises(BadInput, match=f"{name} must be"):
        kind(model=str(tiny), **{name: True})


def test_messages_for_the_text_model_are_warned_about(tiny: Path) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "Say {word}.")])
    llm = HanpacaLLM(model=str(tiny), max_tokens=1, load_options=EXACT)
    with pytest.warns(UserWarning, match="Give them to ChatHanpaca"):
        (prompt | llm).invoke({"word": "hello"})
    with pytest.warns(UserWarning, match="Give them to ChatHanpaca"):
        list((ChatPromptTemplate.from_messages([("human", "Say {word}.")]) | llm).stream({"word": "hello"}))
    llm.invoke("Say hello.")  # a warning would be an error
    HanpacaLLM(model=str(tiny), max_tokens=1, load_options=EXACT, raw=True).invoke("Human: a\nAI:")
