"""What a reader may say: whole words of one source with its number, or that there is no answer."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanpaca import Message
from hanpaca.core.engines.gbnf import lark_of
from hanpaca.rag import reading_bounds
from hanpaca.rag.prompts import CHINESE
from hanpaca.rag.reading_grammar import grammar

TEXTS = (
    "乙生于 1902 年，卒于1950年。 … 《诗集》有三卷。", "The party of 1902 met in “Old Hall”.",
    "Müller didn't pay $13,011.50 at -5 degrees, 1990-1995; ２０２０年。",
)  # fmt: skip


def accepts(written: str, said: str) -> bool:
    """Whether an answer is one of those that a grammar of this form allows."""
    rules = dict(line.split(" ::= ", 1) for line in written.splitlines())

    def follow(name: str, at: int) -> set[int]:
        """Where the text may stand after a rule that begins at `at`."""
        found: set[int] = set()
        for choice in re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^|"])+', rules[name]):
            ends = {at}
            for part in re.findall(r'"(?:[^"\\]|\\.)*"|\S+', choice):
                if part.startswith('"'):
                    text = re.sub(r"\\(.)", r"\1", part[1:-1])
                    ends = {end + len(text) for end in ends if said.startswith(text, end)}
                else:
                    ends = {after for end in ends for after in follow(part, end)}
            found |= ends
        return found

    return len(said) in follow("root", 0)


POSSIBLE = (
    "1902[1]", "1902 年[1]", "乙生于 1902 年，卒于1950年。[1]", "《诗集》[1]", "三卷[1]", "of 1902[2]", "“Old Hall”[2]",
    "Müller[3]", "$13,011.50[3]", "13,011.50[3]", "-5 degrees[3]", "1995[3]", "1990-1995[3]", "didn't[3]",
    "２０２０年[3]",
    CHINESE.absent,
)  # fmt: skip
IMPOSSIBLE = (
    "", "[1]", "1902", "1902[2]年", "190[1]", "902[1]", "part[2]", "The [2]", " party[2]", "，卒[1]", "1951年[1]",
    "13[3]", "13,011[3]", "011.50[3]", "5 degrees[3]", "ller[3]", "M[3]", "t pay[3]", "２０[3]",
    "年。 … 《诗集》[1]", "…[1]", "三[2]", "资料中没有", CHINESE.absent + "[1]",
)  # fmt: skip


@pytest.mark.parametrize("said", POSSIBLE)
def test_words_of_a_source_and_the_refusal_are_possible(said: str) -> None:
    assert accepts(grammar(TEXTS, CHINESE.absent), said)


@pytest.mark.parametrize("said", IMPOSSIBLE)
def test_nothing_else_is(said: str) -> None:
    assert not accepts(grammar(TEXTS, CHINESE.absent), said)


HUANG = ("1998年，黄宗羲在余姚城西建起两座书院。", "黄宗羲的学生有三十多人。 … 書院在2004年修葺。")


@pytest.mark.parametrize(
    ("question", "possible", "impossible"),
    [
        ("书院在哪里？", ["余姚城西[1]", "余姚[1]"], ["1998年[1]", "2004年[2]"]),
        ("谁建起了书院？", ["黄宗羲[1]", "黄宗羲的学生[2]"], ["1998年[1]"]),
        (
            "黄宗羲有多少学生？",
            ["三十多人[2]", "学生有三十多人[2]", "两座[1]"],
            ["黄宗羲[1]", "黄宗羲的学生[2]", "人[2]", "書院[2]"],
        ),
        ("書院是哪一年修葺的？", ["2004年[2]", "在2004年[2]", "1998年[1]"], ["修葺[2]", "余姚[1]"]),
        ("黄宗羲的学生有谁？", ["余姚[1]"], ["黄宗羲[1]", "黄宗羲的学生[2]", "的学生[2]"]),
        ("他在余姚还是杭州？", ["余姚[1]"], []),
        ("黄宗羲和王守仁谁年长？", ["黄宗羲[1]"], ["1998年[1]"]),
        ("黄宗羲建过书院吗？", ["书院[1]", "黄宗羲[2]"], []),
        ("谁在多少年后来到余姚？", ["黄宗羲[1]", "余姚城西[1]"], []),
        ("What is it?", ["1998年[1]", "黄宗羲[2]", CHINESE.absent], ["1998年[2]"]),
    ],
)
def test_an_answer_has_what_the_question_asks_for(question: str, possible: list[str], impossible: list[str]) -> None:
    written = grammar(HUANG, CHINESE.absent, question)
    lark_of(written, lambda _: [])
    assert [said for said in possible if not accepts(written, said)] == []
    assert [said for said in impossible if accepts(written, said)] == []


@pytest.mark.parametrize(
    ("question", "text", "answer"),
    [
        ("有多少學生？", "學校很大。 … 共兩人。", "兩人"),
        ("全长多少？", "很长。 … 全长１２０公里。", "１２０公里"),
        ("中国银行属于哪个国家？", "该银行属于中国。", "中国"),
        ("多伦多大学在哪里？", "大学在加拿大。", "加拿大"),
        ("几内亚的首都是哪座城市？", "几内亚的首都是科纳克里。", "科纳克里"),
        ("终点在哪里？", "终点在101大楼。", "101大楼"),
        ("这部书是哪一年写成的？", "书成于康熙廿年。", "康熙廿年"),
        ("他活到多少岁？", "他享年六十三岁。", "六十三"),
        ("婚礼在什么时候？", "婚礼在除夕夜。", "除夕夜"),
        ("How long did it take?", "It took a week.", "a week"),
    ],
)
def test_what_may_be_right_is_possible(question: str, text: str, answer: str) -> None:
    assert accepts(grammar([text], CHINESE.absent, question), f"{answer}[1]")


def test_no_grammar_grows_out_of_bounds() -> None:
    for text, question in (
        ("1 " * 330, "有多少1 " + "1 " * 100),
        ("好" * 660, "好" * 300),
        ("山" * 1300 + "三", "有多少？"),
    ):
        lark_of(grammar([text.strip()], CHINESE.absent, question), lambda _: [])


def test_of_a_text_without_a_number_nobody_is_told_how_many() -> None:
    assert grammar(["羊驼生活在山上。"], CHINESE.absent, "有多少羊驼？").splitlines() == [
        f'root ::= "{CHINESE.absent}"'
    ]


def test_chinese_words_stay_whole_where_jieba_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jieba")
    texts = ["廖秋成學習樹木分類學。"]
    halves = ["樹木分[1]", "木分類學[1]", "習樹木[1]"]
    written = grammar(texts, CHINESE.absent)
    assert accepts(written, "樹木分類學[1]") and not any(accepts(written, said) for said in halves)
    monkeypatch.setattr(reading_bounds, "find_spec", lambda name: None)
    written = grammar(texts, CHINESE.absent)
    assert all(accepts(written, said) for said in halves)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=3), st.sampled_from(["", "有多少？", "在哪里？", "何时？", "谁0a "]))
def test_every_text_makes_a_grammar_that_the_engine_takes(texts: list[str], question: str) -> None:
    lines = [" ".join(text.encode("utf-8", "replace").decode().split()) for text in texts]
    written = grammar(lines, CHINESE.absent, question)
    lark_of(written, lambda _: [])
    assert accepts(written, CHINESE.absent)


@pytest.mark.usefixtures("smollm2")
def test_a_model_that_was_taught_nothing_keeps_to_it() -> None:
    import hanpaca

    allowed = grammar(TEXTS, CHINESE.absent)
    with hanpaca.load("smollm2", threads=1) as model:
        for question in ("乙生于哪一年？", "How are you?", '说："好"'):
            said = model.chat([Message("user", question)], max_tokens=120, temperature=0, grammar=allowed)
            assert said.finish_reason == "stop" and accepts(allowed, said.text), said.text
