"""Where sentences end in Chinese and in English."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanpaca.rag.sentences import sentences

CASES = {
    "chinese marks": ("他来了。她走了！真的吗？是的；好……", ["他来了。", "她走了！", "真的吗？", "是的；", "好……"]),
    "closing quotes stay": ("他说：“好。”然后走了。（完。）", ["他说：“好。”", "然后走了。", "（完。）"]),
    "repeated marks": ("什么？！不会吧！！！", ["什么？！", "不会吧！！！"]),
    "decimal points": ("价格是3.5元，涨了0.2%。", ["价格是3.5元，涨了0.2%。"]),
    "file names and versions": (
        "See hanpaca.rag and v1.2.3 of a.txt for more.",
        ["See hanpaca.rag and v1.2.3 of a.txt for more."],
    ),
    "abbreviations": (
        "Dr. Li met Mr. Wang at 5 p.m. on Jan. 3. They left.",
        ["Dr. Li met Mr. Wang at 5 p.m. on Jan. 3.", "They left."],
    ),
    "initials": (
        "J. R. Smith of the U.S. Army wrote it. I read it.",
        ["J. R. Smith of the U.S. Army wrote it.", "I read it."],
    ),
    "etc. may end": (
        "Cats, dogs, etc. are pets. Birds, etc. Then fish.",
        ["Cats, dogs, etc. are pets.", "Birds, etc.", "Then fish."],
    ),
    "english quotes": ('He said "Go." She went.', ['He said "Go."', "She went."]),
    "ascii marks in chinese": ("你好!我来了.他走了?是的", ["你好!", "我来了.", "他走了?", "是的"]),
    "list numbers": ("1. Install it.\n2. Run it.", ["1. Install it.", "2. Run it."]),
    "blank line": ("a title\n\nthe text goes on", ["a title", "the text goes on"]),
    "wrapped line": (
        "This line is as wide as a terminal, and so its sentence goes on in the\nnext line. Short.",
        ["This line is as wide as a terminal, and so its sentence goes on in the\nnext line.", "Short."],
    ),
    "wrapped chinese": (
        "    旨在作为一份系统安装后的用户指南，为系统的使用与管理提供广泛的概\n    览。它通过示例来说明。",
        ["旨在作为一份系统安装后的用户指南，为系统的使用与管理提供广泛的概\n    览。", "它通过示例来说明。"],
    ),
    "short lines end": ("床前明月光\n疑是地上霜", ["床前明月光", "疑是地上霜"]),
    "items end": (
        "The following things are needed before the installation can be started\n- a disk\n- a keyboard",
        ["The following things are needed before the installation can be started", "- a disk", "- a keyboard"],
    ),
    "dots": ("Wait... what? Yes.", ["Wait...", "what?", "Yes."]),
    "nothing": (" \n\t ", []),
}


@pytest.mark.parametrize(("text", "wanted"), CASES.values(), ids=CASES)
def test_cases(text: str, wanted: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == wanted


PIECES = st.lists(
    st.sampled_from(
        [*"。！？；…”’」）.!?\"') \n\t,，3", "\n\n", "Dr.", "etc.", "中文", "word", "A", "- ", "1. ", "　", "x" * 60]
    )
)


@given(PIECES.map("".join) | st.text())
def test_all_text_is_covered_once(text: str) -> None:
    spans = sentences(text)
    reached = 0
    for start, end in spans:
        assert text[reached:start].strip() == "" and start < end
        assert text[start:end] == text[start:end].strip()
        reached = end
    assert text[reached:].strip() == ""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", ["x", "。", "a.", " ", "\n", "a\n", "Mr.", "“", "1."])
def test_long_texts_of_any_kind_take_linear_time(unit: str) -> None:
    """A million characters take two seconds; a rule that looked back would take the whole minute, and end here."""
    text = unit * (1_000_000 // len(unit))
    assert sum(end - start for start, end in sentences(text)) <= len(text)
