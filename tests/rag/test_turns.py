"""A follow-up's prompt begins as the one before, so that what was computed serves again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import CAPITALS, Scripted

from hanpaca import Message, load
from hanpaca.rag import Library, answer
from hanpaca.rag.prompts import ENGLISH
from hanpaca.rag.turns import REMEMBERED, Turn, Turns

PERU, CHILE = "What is the capital of Peru?", "What is the capital of Chile?"


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "library") as opened:
        for name, text in CAPITALS:
            opened.add_text(text, name, embed=False)
        opened.embed_pending()
        yield opened


def said(question: str, text: str) -> list[Message]:
    return [Message("user", question), Message("assistant", text)]


def test_a_follow_up_goes_on_from_the_prompt_before(library: Library) -> None:
    model = Scripted("Lima [1].", "Santiago [2].")
    answer(library, model, PERU, k=1)
    found = answer(library, model, CHILE, k=1, history=said(PERU, "Lima [1]."))
    first, second = model.asked
    assert second[: len(first) + 1] == [*first, Message("assistant", "Lima [1].")]
    assert "<source 2: chile" in second[-1].content and "source 1" not in second[-1].content
    assert second[-1].content.endswith(f"Question: {CHILE}")
    assert [(cited.number, cited.file) for cited in found.citations] == [(2, "chile")]
    assert [hit.file for hit in found.hits] == ["peru", "chile"]


def test_passages_that_were_shown_are_not_shown_again(library: Library) -> None:
    model = Scripted("Lima [1].", "Three thousand kinds [1].")
    answer(library, model, PERU, k=1)
    follow_up = "How many potatoes does it grow?"
    found = answer(library, model, follow_up, k=1, history=said(PERU, "Lima [1]."))
    first, second = model.asked
    assert second == [*first, Message("assistant", "Lima [1]."), Message("user", f"Question: {follow_up}")]
    assert found.question == f"{PERU} {follow_up}" and ENGLISH.understood.format(question=found.question) in found.notes
    assert [(cited.number, cited.file) for cited in found.citations] == [(1, "peru")]


@pytest.mark.parametrize("change", ["deleted", "replaced", "other filters", "another language", "no room"])
def test_a_prompt_that_cannot_go_on_begins_anew(library: Library, change: str) -> None:
    model = Scripted("Lima [1].")
    answer(library, model, PERU, k=2)
    filters, question = None, CHILE
    match change:
        case "deleted":
            library.delete("peru")
        case "replaced":
            library.add_text("The capital of Peru is a city called Lima.", "peru")
        case "other filters":
            filters = {"files": ["chile"]}
        case "another language":
            question = "法国的首都是哪里？"
        case _:
            model.context_length = model.count_tokens(model.asked[0]) + 220
    answer(
        library, model, question, k=2, history=said(PERU, "Lima [1]."), filters=filters, sampling={"max_tokens": 200}
    )
    last = model.asked[-1]
    assert "<source 1: " in last[-1].content
    assert all("<source" not in message.content for message in last[:-1])
    if change == "deleted":
        assert "potatoes" not in "".join(message.content for message in last)


def test_only_the_latest_turns_are_remembered(library: Library) -> None:
    turns = Turns()
    for number in range(REMEMBERED + 1):
        turns.remember([Message("user", str(number))], None, Turn((), (), ""))
    assert turns.before(said("0", "a"), None, library.store) is None
    assert turns.before(said("1", "a"), None, library.store) is not None
    assert turns.before([], None, library.store) is None


def test_the_engine_computes_only_what_is_new(library: Library, smollm2: Path) -> None:
    with load(smollm2, context=2048) as model:
        text = answer(library, model, PERU, sampling={"max_tokens": 24, "temperature": 0}).text
        found = answer(
            library,
            model,
            "What does Peru grow?",
            history=said(PERU, text),
            sampling={"max_tokens": 24, "temperature": 0},
        )
    assert found.usage.cached_tokens > 0.4 * found.usage.prompt_tokens
