"""What a reader says: shown over its source where it is sure, and left out where it is not or did not read it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted

from hanpaca import Completion, Message, Sampling, Usage
from hanpaca.core import TokenLogprob
from hanpaca.core.errors import BadInput
from hanpaca.rag import Answer, Library, answer, short_answer, stream_answer
from hanpaca.rag.hits import Hit
from hanpaca.rag.prompts import CHINESE, ENGLISH

QUESTION = "法国的首都是哪里？"
SOURCE = "法国的首都是巴黎，位于塞纳河畔。"


class Reader(Scripted):
    """A reader whose answers are known, and how sure it is of them."""

    reads = True

    def __init__(self, *answers: str, logprob: float = -0.1) -> None:
        super().__init__(*answers)
        self.logprob = logprob
        self.samplings: list[Sampling] = []

    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Completion:
        assert sampling is not None
        self.samplings.append(sampling)
        said = super().chat(messages, sampling)
        tokens = tuple(TokenLogprob(1, b"", value) for value in (-0.01, self.logprob))
        return Completion(said.text, said.finish_reason, said.usage, tokens)


def test_a_sure_answer_stands_over_the_sentence_that_holds_it(library: Library) -> None:
    model = Reader("巴黎[1]")
    *pieces, found = stream_answer(library, model, QUESTION)
    assert isinstance(found, Answer)
    assert found.text.splitlines()[:2] == ["巴黎 [1]", f"{SOURCE} [1]"]
    assert "".join(piece.text for piece in pieces) == found.text
    assert (found.mode, found.refused, found.notes) == ("focus", False, [])
    assert (found.citations[0].file, found.citations[0].quote) == ("法国", SOURCE)
    assert len({citation.quote for citation in found.citations}) == len(found.citations), "no sentence twice"
    assert found.usage.completion_tokens == len("巴黎[1]")


def test_under_an_answer_stands_all_that_would_be_quoted_without_it(tmp_path: Path) -> None:
    capitals = "".join(f"法国的首都{word}。" for word in ("很大", "很美", "很老", "很远", "临河"))
    with Library.open(tmp_path / "library") as opened:
        opened.add_text(f"{capitals}巴黎人口有二百万。", "法国.txt")
        quoted = answer(opened, None, "法国的首都怎么样？", mode="extract").text.splitlines()
        found = answer(opened, Reader("二百万[1]"), "法国的首都怎么样？", abstain=False)
    first, source, *others = [line.rpartition(" [")[0] for line in found.text.splitlines()]
    assert (first, source) == ("二百万", "巴黎人口有二百万。")
    assert len(others) == 3
    assert others == [line.rpartition(" [")[0] for line in quoted]


def test_the_sentence_of_an_unsure_answer_comes_last(tmp_path: Path) -> None:
    capitals = "".join(f"法国的首都{word}。" for word in ("很大", "很美", "很老", "很远", "临河"))
    with Library.open(tmp_path / "library") as opened:
        for name in ("法国.txt", "又一份.txt"):  # whose sentences are the same, and shown once
            opened.add_text(f"{capitals}巴黎人口有二百万。", name)
        quoted = answer(opened, None, "法国的首都怎么样？", mode="extract").text.splitlines()
        for said, last in (("二百万[1]", ["巴黎人口有二百万。 [4]"]), ("很大[1]", []), ("伦敦[1]", [])):
            found = answer(opened, Reader(said, logprob=short_answer.SURE - 1), "法国的首都怎么样？", abstain=False)
            assert found.text.splitlines() == [*quoted, *last], "only where it is none of the others"
            assert found.mode == "extract" and len(found.citations) == len(quoted) + len(last)


def test_a_reader_is_asked_greedily_and_for_its_log_probabilities(library: Library) -> None:
    model = Reader("巴黎[1]")
    answer(
        library,
        model,
        QUESTION,
        sampling={"temperature": 0.9, "max_tokens": 50, "stop": ["巴"], "presence_penalty": 1.5},
    )
    asked = model.samplings[0]
    assert (asked.stop, asked.presence_penalty) == ((), 0) and f'"{CHINESE.absent}"' in str(asked.grammar)
    assert asked.logit_bias == {ord("["): short_answer.LATER}, "an answer ends a little later"
    assert (asked.temperature, asked.repetition_penalty, asked.logprobs, asked.max_tokens) == (0, 1, 0, 50)


@pytest.mark.parametrize(
    ("said", "logprob"),
    [("巴黎[1]", short_answer.SURE - 0.1), ("伦敦[1]", -0.01), ("[1]", -0.01), ("", -0.01)],
    ids=["unsure", "in no source", "a number alone", "nothing"],
)
def test_what_it_is_not_sure_of_or_did_not_read_is_not_shown(library: Library, said: str, logprob: float) -> None:
    found = answer(library, Reader(said, logprob=logprob), QUESTION)
    assert found.text.splitlines()[0] == f"{SOURCE} [1]"
    assert (found.mode, found.refused, found.notes) == ("extract", False, [CHINESE.not_sure.format(model="scripted")])


@pytest.mark.parametrize(("question", "words"), [(QUESTION, CHINESE), ("What is the capital of Peru?", ENGLISH)])
def test_a_refusal_shows_what_comes_nearest(library: Library, question: str, words: object) -> None:
    model = Reader(words.absent)  # type: ignore[attr-defined]
    found = answer(library, model, question)
    assert len(model.asked) == 1, "the library itself did not refuse"
    assert found.refused and found.text.startswith(words.unsure)  # type: ignore[attr-defined]
    assert found.citations


def test_other_models_are_given_whole_passages(library: Library) -> None:
    assert answer(library, Scripted("巴黎[1]。"), QUESTION).mode == "stuff"


TEXT = "甲生于一九零一年。乙生于 1902 年，卒于1950年。丙也生于1902年。"


def hit(text: str, start: int = 0, number: int = 1) -> Hit:
    return Hit(number, text, "a.txt", None, 1, (), start, start + len(text), 1.0)


def said(text: str, *logprobs: float) -> Completion:
    return Completion(text, "stop", Usage(), tuple(TokenLogprob(1, b"", value) for value in logprobs))


def test_the_place_is_the_sentence_that_was_shown_and_holds_the_words() -> None:
    passage = hit(TEXT, start=100)
    found = short_answer.read(said("1902年 [1]", -0.3, -0.2), [(passage, "乙生于 1902 年，卒于1950年。")])
    assert found is not None
    assert TEXT[found.source.start - 100 : found.source.end - 100] == "乙生于 1902 年，卒于1950年。"
    assert (found.logprob, found.sure) == (-0.3, True)


def test_the_named_source_comes_first_and_a_wrong_number_does_no_harm() -> None:
    one, two = hit("乙生于1902年。", number=1), hit("丙也生于1902年。", number=2)
    shown = [(one, one.text), (two, two.text)]
    for text, number in (("1902年[2]", 2), ("1902年[1]。", 1), ("1902年[7]", 1), ("1902年", 1)):
        found = short_answer.read(said(text, -0.1), shown)
        assert found is not None and found.source.hit.passage_id == number, text
    assert short_answer.read(said("1903年[2]", -0.1), shown) is None


def test_a_footnote_mark_is_no_source_and_no_obstacle() -> None:
    passage = hit("他生于1902年[3]，卒于巴黎。")
    found = short_answer.read(said("1902年(3)，卒于巴黎[1]", -0.1), [(passage, passage.text)])
    assert found is not None and passage.text[found.source.start : found.source.end] == passage.text


def test_words_across_two_sentences_are_placed_in_both() -> None:
    passage = hit(TEXT)
    found = short_answer.read(said("卒于1950年。丙也生于1902年[1]", -0.1), [(passage, TEXT)])
    assert found is not None
    assert TEXT[found.source.start : found.source.end] == "乙生于 1902 年，卒于1950年。丙也生于1902年。"


@pytest.mark.parametrize("text", ["。[1]", "的[1]", "90[1]", "art[1]", "part of[1]"])
def test_marks_and_parts_of_numbers_and_words_are_no_answer(text: str) -> None:
    passage = hit("他在1902年说：The party of 1902。")
    assert short_answer.read(said(text, -0.1), [(passage, passage.text)]) is None


def test_a_full_stop_in_front_of_the_number_is_not_a_part_of_the_answer() -> None:
    passage = hit("法国的首都是巴黎，位于塞纳河畔。")
    found = short_answer.read(said("巴黎。[1]", -0.1), [(passage, passage.text)])
    assert found is not None and found.text == "巴黎"


def test_an_answer_that_was_cut_off_is_none() -> None:
    passage = hit("法国的首都是巴黎。")
    cut = Completion("巴", "length", Usage(), (TokenLogprob(1, b"", -0.1),))
    assert short_answer.read(cut, [(passage, passage.text)]) is None


def test_a_follow_up_is_quoted(library: Library) -> None:
    model = Reader("巴黎[1]")
    history = [Message("user", QUESTION), Message("assistant", "巴黎 [1]")]
    found = answer(library, model, "那日本呢？", history=history)
    assert (found.mode, model.asked) == ("extract", [])
    assert CHINESE.single.format(model="scripted") in found.notes


@pytest.mark.parametrize(
    "options", [{"mode": "stuff"}, {"mode": "refine"}, {"sampling": {"json_schema": {"type": "object"}}}], ids=str
)
def test_what_a_reader_was_not_taught_is_refused(library: Library, options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="scripted"):
        answer(library, Reader("巴黎[1]"), QUESTION, **options)


def test_without_log_probabilities_nothing_is_sure() -> None:
    found = short_answer.read(said("1902年[1]"), [(hit(TEXT), TEXT)])
    assert found is not None and not found.sure


@pytest.mark.usefixtures("smollm2")
def test_the_reader_answers_in_chinese_and_says_where_it_read_it(tmp_path: Path) -> None:
    import hanpaca

    with Library.open(tmp_path / "library") as opened, hanpaca.load("smollm2-reader") as model:
        opened.add_text("玛丽·居里于1867年11月7日出生在华沙。她在1903年获得诺贝尔物理学奖。", "居里.txt")
        found = answer(opened, model, "居里夫人在哪一年获得诺贝尔物理学奖？", abstain=False)
    assert found.mode == "focus"
    assert "1903年" in found.text.splitlines()[0]
    assert found.citations[0].quote == "她在1903年获得诺贝尔物理学奖。"
