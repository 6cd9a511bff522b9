"""A library consulted for a conversation that somebody else holds."""

from pathlib import Path

from hanpaca.core.chat import Message
from hanpaca.rag import Library
from hanpaca.rag.consulting import consult, without_sources
from hanpaca.rag.uploads import clean_name, document_id, document_name, document_path


def test_consulting_says_what_it_left_out(tmp_path: Path) -> None:
    with Library.open(tmp_path / "库") as library:
        for place, load in (("Peru", "thirty"), ("Bolivia, on salt,", "forty"), ("Chile, by the sea,", "twenty")):
            library.add_text(f"In {place} a llama carries a load of {load} kilograms uphill.", f"{load}.txt")
        asked = [0]

        def holds(instruction: str, text: str) -> bool:
            asked[0] += 1
            return text.count("<source ") < 2

        found = consult(library, "How many kilograms does a llama carry uphill?", k=3, holds=holds)
        assert (found.used, len(found.hits), asked[0]) == (1, 3, 3)
        assert found.reason
        assert document_name(found.hits[0].file).endswith(".txt")
        found.marks.feed("It carries a load of kilograms uphill [1].")
        assert without_sources("Yes." + found.written()) == "Yes."


def test_a_question_that_leans_on_the_one_before_is_searched_whole(tmp_path: Path) -> None:
    with Library.open(tmp_path / "库") as library:
        library.add_text("A grown llama carries a load of thirty kilograms.", "llama.txt")
        history = [Message("user", "What load does a grown llama carry?"), Message("assistant", "Thirty kilograms.")]
        found = consult(library, "And how much is it?", history=history)
        assert "llama" in found.question
        assert found.text.endswith("And how much is it?"), "the prompt has the question as it was asked"


def test_names_of_uploads() -> None:
    path = document_path("0123456789abcdef", clean_name("C:\\me\\报告 终稿.pdf"))
    assert (document_id(path), document_name(path)) == ("0123456789abcdef", "报告 终稿.pdf")
    assert document_id("/me/报告.pdf").startswith("file-")
    assert document_name("/me/报告.pdf") == "/me/报告.pdf"
