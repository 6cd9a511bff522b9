"""Which questions lean on what was said before."""

from __future__ import annotations

import pytest

from hanpaca.core.chat import Message
from hanpaca.rag.followups import make_whole

BEFORE = [Message("user", "秘鲁的首都是哪里？"), Message("assistant", "利马。")]


@pytest.mark.parametrize(
    "question",
    [
        "Where is England on the map?", "How many thousand people live there now?", "What is the capital of Italy?",
        "What are the main themes?", "Which items are taxed?", "Is there a law that limits the rent?",
        "合同的其他条款有哪些？", "税率是多少？", "押金多少？", "土耳其的首都是哪里？", "吉他有几根弦？",
        "尤其重要的是哪一条？",
    ],
)  # fmt: skip
def test_whole_questions_stay_as_they_are(question: str) -> None:
    assert make_whole(question, BEFORE) == question


@pytest.mark.parametrize(
    "question",
    [
        "And Chile?", "Why?", "What about that?", "How long does it last?", "What are its largest cities?",
        "Which one?",
        "为什么？", "多少钱？", "在哪里？", "什么时候？", "谁写的？", "它的人口呢？", "其人口是多少？",
        "那智利呢？", "前者更大吗？",
    ],
)  # fmt: skip
def test_others_are_asked_after_the_last_one(question: str) -> None:
    assert make_whole(question, BEFORE) == f"秘鲁的首都是哪里？ {question}"
    assert make_whole(question, []) == question
