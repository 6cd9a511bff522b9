"""A library measured on the user's own questions, and the files that hold them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanpaca.core.errors import BadInput
from hanpaca.rag import Library
from hanpaca.rag.evaluation import evaluate, read_questions


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    chapters = enumerate("笔墨纸砚琴棋书画诗酒花茶", 1)
    with Library.open(tmp_path_factory.mktemp("library")) as opened:
        text = "\n\n".join(f"第{number}章讲的是{thing}的来历和用处，说得十分详细。" * 12 for number, thing in chapters)
        opened.add_text(text, "长文.txt", embed=False)
        opened.add_text("羊驼住在高原上，吃草，毛很软。", "抄本.md", embed=False)
        for number in range(8):
            fact = f"Alpacas live on the plateau. Fact {number * 7919}."
            opened.add_text(fact, f"animal{number}.md", embed=False)
        opened.embed_pending()
        yield opened


def test_evaluate(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(
        '{"question": "羊驼住在哪里？", "answer": "高原"}\n\n{"question": "棋的来历在第几章？", "file": "长文.txt"}\n'
        '{"question": "量子纠缠？", "answerable": false}\n{"question": "砚台有什么用处？", "answer": "没有这句"}\n',
        encoding="utf-8",
    )
    found = evaluate(library, read_questions(path))
    assert found.questions == 4
    assert found.recall[10] == pytest.approx(2 / 3)
    assert found.missed == ["砚台有什么用处？"]
    assert found.refused_unanswerable in (0.0, 1.0)
    path.write_text("{}\n", encoding="utf-8")
    with pytest.raises(BadInput, match="Line 1"):
        read_questions(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "utf-16"])
def test_question_files_in_the_encodings_of_programs(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes('{"question": "羊驼住在哪里？"}\r\n{"question": "毛是什么样的？"}'.encode(encoding))
    assert [row["question"] for row in read_questions(path)] == ["羊驼住在哪里？", "毛是什么样的？"]


def test_a_line_separator_within_a_question(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "Where\u2028do llamas live?"}\n', encoding="utf-8")
    assert read_questions(path) == [{"question": "Where\u2028do llamas live?"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question": "a"}\n{"question": " "}', "Line 2 .* has no question"),
        (b'{"question": "a"}\n[]', "Line 2 .* has no question"),
        (b'{"question": "a", "answer": ' + b"9" * 5000 + b"}", "Line 1 .* no JSON"),
        (b"PK\x03\x04\0\0", "q.jsonl cannot be read: .* ZIP"),
        (b"\xef\xbb\xbf" + b'{"question": "a \xff, and many more words besides"}', "cannot be read: 1 byte"),
    ],
)
def test_question_files_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "q.jsonl").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_questions(tmp_path / "q.jsonl")


@pytest.mark.parametrize(
    ("row", "recall"),
    [
        ({"answer": 7919}, 1.0),
        ({"answers": [1, 7919]}, 1.0),
        ({"answer": 1.5}, 0.0),
        ({"file": 5}, 0.0),
        ({"answer": 0}, 0.0),
        ({"answer": "", "answers": ["plateau"]}, 1.0),
    ],
)
def test_numbers_as_answers_and_files(library: Library, row: dict[str, Any], recall: float) -> None:
    found = evaluate(library, [{"question": "What is the fact about alpacas on the plateau?", **row}])
    assert found.recall[10] == recall


@pytest.mark.parametrize("nothing", [None, False, "", []])
def test_no_answer_and_no_file_are_compared_with_nothing(library: Library, nothing: Any) -> None:
    assert evaluate(library, [{"question": "alpacas", "answer": nothing, "file": nothing}]).recall == {}
