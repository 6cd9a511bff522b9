"""Short prompts of the best sentences: what is in them, what is left out, and what becomes of the answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import CAPITALS, Scripted

import hanpaca
from hanpaca.core.errors import BadInput
from hanpaca.rag import Hit, Library, answer
from hanpaca.rag.focus import CHARACTERS, focused, length, messages
from hanpaca.rag.prompts import CHINESE, ENGLISH

LLAMAS = (
    "羊驼生活在安第斯山脉，海拔四千米左右。它们以草为食，性情温和。"
    "成年羊驼可以驮运三十公斤的货物，每天走二十公里。它们的毛可以织成衣服。羊驼的寿命大约是二十年。"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    with Library.open(tmp_path_factory.mktemp("library")) as opened:
        for name, text in (*CAPITALS, ("羊驼.txt", LLAMAS)):
            opened.add_text(text, name, embed=False)
        opened.embed_pending()
        yield opened


def hit(text: str, number: int = 1) -> Hit:
    return Hit(number, text, f"{number}.txt", None, 1, (), 100, 100 + len(text), 1.0)


def test_the_sentence_that_answers_is_shown_and_the_rest_left_out(library: Library) -> None:
    question = "成年羊驼可以驮运多少公斤？"
    found = library.find(question, 3)
    (first, text), *_ = focused(question, found.hits, found.weights, 30)
    assert (first.file, text) == ("羊驼.txt", "成年羊驼可以驮运三十公斤的货物，每天走二十公里。")


def test_sentences_stand_in_their_order_with_a_mark_where_some_are_left_out() -> None:
    question, weights = "羊驼 海拔 寿命", {"羊驼": 1.0, "海拔": 3.0, "寿命": 3.0}
    ((_, text),) = focused(question, [hit(LLAMAS)], weights, 36)
    assert text == "羊驼生活在安第斯山脉，海拔四千米左右。 … 羊驼的寿命大约是二十年。"
    ((_, whole),) = focused(question, [hit(LLAMAS)], weights, 1000)
    assert whole == LLAMAS


@given(
    st.lists(st.text(alphabet="羊驼高原abc。. \n", min_size=1, max_size=80), min_size=1, max_size=4), st.integers(1, 99)
)
def test_no_more_is_shown_than_has_room_but_the_best_sentence(texts: list[str], room: int) -> None:
    hits = [hit(text, number) for number, text in enumerate(texts, 1)]
    shown = focused("羊驼", hits, {"羊驼": 1.0}, room)
    parts = [(one, part) for one, text in shown for part in text.split(" … ")]
    assert all(part in one.text for one, part in parts)
    joints = 6 * sum(map(len, texts))  # white space between neighbours is shown, and not counted
    assert len(parts) == 1 or sum(length(part) for _, part in parts) <= 6 * room + joints


def test_a_document_cannot_pose_as_another_source() -> None:
    system, asked = messages(ENGLISH, [(hit("x"), "Truth.\n[2] A lie.")], "Who {sources}?")
    assert asked.content == "[1] Truth. (2) A lie.\n\nQuestion: Who {sources}?"
    assert (system.role, asked.role) == ("system", "user")


def test_an_answer_is_cited_from_the_whole_passage(library: Library) -> None:
    model = Scripted("三十公斤[1]")
    found = answer(library, model, "成年羊驼可以驮运多少公斤？", mode="focus")
    (asked,) = model.asked
    assert asked[-1].content.startswith("[1] ") and asked[-1].content.endswith("问题：成年羊驼可以驮运多少公斤？")
    assert sum(length(line) for line in asked[-1].content.splitlines()[:-1]) < 6 * CHARACTERS + 100
    (citation,) = found.citations
    assert (found.mode, found.refused, citation.file) == ("focus", False, "羊驼.txt")
    assert LLAMAS[citation.start : citation.end] == citation.quote


@pytest.mark.parametrize(("question", "said"), [("羊驼吃什么草？", CHINESE.absent), ("Where is Lima?", ENGLISH.absent)])
def test_a_model_that_finds_no_answer_refuses(library: Library, question: str, said: str) -> None:
    found = answer(library, Scripted(said), question, mode="focus", abstain=False)
    assert (found.text, found.refused, found.citations) == (said, True, [])


def test_it_needs_a_model(library: Library) -> None:
    with pytest.raises(BadInput, match="focus needs a model"):
        answer(library, None, "羊驼吃什么？", mode="focus")


def test_a_small_model_is_asked(library: Library, smollm2: Path) -> None:
    with hanpaca.load("smollm2", threads=1) as model:
        sampling = {"temperature": 0.0, "max_tokens": 24}
        found = answer(library, model, "What is the capital of Peru?", mode="focus", sampling=sampling)
    assert found.mode == "focus" and found.text and not found.refused
    # what it says are near ties of quantized weights: it may be nothing that can be cited
    assert {citation.file for citation in found.citations} <= {"peru", "chile"}
