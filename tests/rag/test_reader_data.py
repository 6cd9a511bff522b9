"""The Chinese reader's lessons: the app's own prompts, answers that stand in their source, documents held out."""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scripted import CAPITALS

from hanpaca.core.training.options import FinetuneOptions, from_json
from hanpaca.rag import Library
from hanpaca.rag.prompts import CHINESE

RECIPE = Path(__file__).parents[2] / "examples" / "chinese_reader"
Row = dict[str, Any]
ROW: Row = {
    "id": "q-1", "question": "东京塔高多少米？", "doc_id": "日本", "answers": ["三百三十三米"], "answer_start": [12],
    "lang": "zh-Hans",
}  # fmt: skip
OTHERS = [
    ("zh-Hans", "富士山高多少米？", "三千七百七十六米"),
    ("zh-Hans", "谁写了《家》？", "巴金"),
    ("zh-Hans", "作者是谁？", "老舍"),
]
"""Languages, questions and answers."""

NAMES = {name for name, _ in CAPITALS}


@pytest.fixture(scope="module")
def swapping() -> ModuleType:
    pytest.importorskip("jieba")
    return module("swapping")


@pytest.fixture(scope="module")
def recipe(swapping: ModuleType) -> ModuleType:
    return module("data")


@pytest.fixture(scope="module")
def spans(recipe: ModuleType) -> ModuleType:
    return module("spans")


@pytest.fixture(scope="module")
def average() -> ModuleType:
    pytest.importorskip("safetensors")
    return module("average")


def examples(
    recipe: ModuleType, library: Library, row: Row, names: set[str], siblings: list[Row], seed: str = ""
) -> list[Row]:
    """The conversations about one question, where other answers are those of `OTHERS`."""
    return list(recipe.examples(library, row, names, siblings, recipe.Answers(OTHERS), seed))


def module(name: str) -> ModuleType:
    """A module of the recipe, under the name by which the others import it."""
    spec = importlib.util.spec_from_file_location(name, RECIPE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_an_answer_stands_in_the_source_that_it_names(recipe: ModuleType, library: Library) -> None:
    first, *_ = examples(recipe, library, ROW, NAMES, [ROW])
    *_, asked, answer = first["messages"]
    text, number = answer["content"].removesuffix("]").split("[")
    assert text == "三百三十三米" and asked["content"].endswith("问题：东京塔高多少米？")
    line = next(line for line in asked["content"].splitlines() if line.startswith(f"[{number}] "))
    assert text in line


def test_other_questions_of_the_same_sources_follow(recipe: ModuleType, library: Library) -> None:
    others = [
        ROW | {"id": "q-2", "question": "高度是？", "answers": ["三百三十三"]},
        ROW | {"id": "q-3", "question": "不在？", "answers": ["六百米高"]},
        ROW | {"id": "q-4", "question": "太短？", "answers": ["三百"]},
    ]
    first, *_ = examples(recipe, library, ROW, NAMES, [ROW, *others])
    *_, answer, further, second = first["messages"]
    assert (further["content"], second["content"].partition("[")[0]) == ("问题：高度是？", "三百三十三")
    assert answer["content"].startswith("三百三十三米["), "neither the same nor an unsure one"


def test_a_question_without_its_passages_has_no_answer(recipe: ModuleType, library: Library) -> None:
    rows = [ROW | {"id": f"q-{n}"} for n in range(40)]
    made = [example for row in rows for example in examples(recipe, library, row, NAMES, [])]
    absent = [one for one in made if one["messages"][-1]["content"] == CHINESE.absent]
    assert 0 < len(absent) < 40 and all("三百三十三米" not in str(one["messages"][:-1]) for one in absent)
    again = [examples(recipe, library, rows[3], NAMES, []) for _ in range(2)]
    assert again[0] == again[1], "always the same"


def test_one_draw_is_in_the_other_characters(recipe: ModuleType, library: Library) -> None:
    made = examples(recipe, library, ROW, NAMES, [ROW])
    drawn = [one["messages"] for one in made if CHINESE.absent not in str(one)]
    assert [("東京塔" in messages[1]["content"]) for messages in drawn] == [False, True, False, True]
    assert drawn[1][1]["content"].endswith("问题：東京塔高多少米？") and "三百三十三米[" in drawn[1][2]["content"]
    back = recipe.other_characters({"messages": drawn[1]})
    assert back["messages"][1:] == [
        one | {"content": recipe.SIMPLIFIED.convert(one["content"])} for one in drawn[1][1:]
    ]


def test_draws_have_other_answers_in_their_sources(recipe: ModuleType, library: Library) -> None:
    made = examples(recipe, library, ROW, NAMES, [ROW])
    drawn = [one["messages"] for one in made if CHINESE.absent not in str(one)]
    assert ["三百三十三米" in str(messages) for messages in drawn] == [True, True, False, False]
    for messages in drawn[2:]:
        text, number = messages[2]["content"].removesuffix("]").split("[")
        line = next(line for line in messages[1]["content"].splitlines() if line.startswith(f"[{number}] "))
        assert text == "三千七百七十六米" and text in line, "it stands in the source that it names"


def test_an_answer_is_swapped_for_one_of_its_kind(swapping: ModuleType) -> None:
    answers, chance = swapping.Answers(OTHERS), random.Random(1)
    assert answers.another("zh-Hans", "谁创作的？", "鲁迅", chance) in ("巴金", "老舍")
    assert answers.another("zh-Hans", "在哪里？", "上海", chance) is None, "a person is no place"
    assert answers.another("en", "Who?", "Lu Xun", chance) is None
    other = answers.another("zh-Hans", "哪一年？", "1984年3月", chance)
    assert len(other) == 7 and other != "1984年3月" and (other[4], other[6]) == ("年", "月") and "0" not in other
    assert answers.another("zh-Hans", "谁？", "很长" * 9, chance) is None


def test_what_is_part_of_something_else_is_not_swapped(swapping: ModuleType) -> None:
    answers = swapping.Answers(OTHERS)
    told = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "[1] 鲁迅写了《故乡》，鲁迅生于1881年。\n\n问题：谁写了《故乡》？"},
        {"role": "assistant", "content": "鲁迅[1]"},
        {"role": "user", "content": "问题：哪一年生的？"},
        {"role": "assistant", "content": "1881年[1]"},
    ]
    for seed in range(20):
        made = swapping.swapped({"messages": told}, "zh-Hans", answers, random.Random(seed))["messages"]
        new, year = made[2]["content"][:-3], made[4]["content"][:-3]
        assert new in ("巴金", "老舍") and year != "1881年"
        assert made[1]["content"].startswith(f"[1] {new}写了《故乡》，{new}生于{year}。\n\n问题：")
        assert "谁" in made[1]["content"] and "哪" in made[3]["content"], "the words that ask stay"
    told[3] = {"role": "user", "content": "问题：鲁迅哪一年生的？"}
    made = swapping.swapped({"messages": told}, "zh-Hans", answers, random.Random(1))["messages"]
    assert made[2]["content"] == "鲁迅[1]", "a question names him"
    assert told[2]["content"] == "鲁迅[1]" and told[4]["content"] == "1881年[1]", "what was given stays as it was"


def test_another_seed_draws_other_sentences(recipe: ModuleType, library: Library) -> None:
    made = [[examples(recipe, library, ROW, NAMES, [ROW], seed) for seed in ("", "", "1")] for _ in range(2)]
    assert made[0] == made[1] and made[0][0] == made[0][1] != made[0][2]


def test_nothing_of_other_documents_is_shown(recipe: ModuleType, library: Library) -> None:
    made = [str(one) for one in examples(recipe, library, ROW, {"日本"}, [])]
    assert made and not any(word in one for one in made for word in ("巴黎", "Peru", "Chile"))


def test_translations_are_held_out_together(recipe: ModuleType) -> None:
    for n in range(50):
        rows = {"doc_id": f"zh-{n}", "parallel_doc_id": f"en-{n}"}, {"doc_id": f"en-{n}", "parallel_doc_id": f"zh-{n}"}
        assert recipe.held_out(rows[0]) == recipe.held_out(rows[1])
    assert 5 < sum(recipe.held_out({"doc_id": f"d-{n}"}) for n in range(100)) < 40


@pytest.mark.parametrize("name", ["spans", "reader"])
def test_the_recipe_names_options_that_there_are(name: str) -> None:
    options = from_json(RECIPE / f"{name}.json")
    assert isinstance(options, FinetuneOptions) and options.method == "full" and options.data[0].startswith("reader/")


def test_what_can_be_asked_for(spans: ModuleType) -> None:
    sentence = "1984年3月5日，李四光在北京出版了《地质学》，共印3000册。"
    asked = {sentence[start:end]: word for start, end, word in spans.parts(sentence)}
    assert asked["1984年3月5日"] == "什么时候" and asked["《地质学》"] == "什么" and asked["3000"] == "多少"
    assert asked["李四光"] == "谁" and asked["北京"] == "哪里"


def test_questions_without_a_teacher_have_their_answer_in_the_named_source(spans: ModuleType) -> None:
    text = "".join(f"第{n}座大桥于{1900 + n}年在城市{n}建成，全长{500 + n}米，两岸的居民都来庆祝。" for n in range(60))
    document = {"id": "桥", "doc_id": "桥", "title": "大桥", "lang": "zh-Hans", "text": text}
    made = list(spans.examples([document] * 3, random.Random(1)))
    first = [one["messages"][2]["content"] for one in made]
    assert len(made) > 30 and 0.05 < first.count(CHINESE.absent) / len(made) < 0.3
    assert any(len(one["messages"]) > 3 for one in made)
    for one in made:
        system, prompt, *_ = one["messages"]
        sources = prompt["content"].split("\n\n")[0].split("\n")
        for asked, answer in zip(one["messages"][1::2], one["messages"][2::2], strict=True):
            if answer["content"] != CHINESE.absent:
                text, number = answer["content"].removesuffix("]").rsplit("[", 1)
                assert text in sources[int(number) - 1] and text not in asked["content"].split("\n")[-1]
        assert system["role"] == "system"


def test_a_question_that_lost_the_word_that_asks_is_none(spans: ModuleType) -> None:
    sentence = "大桥由工程师（李四光）主持修建，三年后通车。"
    start = sentence.index("李四光")
    assert spans.question(sentence, (start, start + 3, "谁"), "", random.Random(1)) == ""
    assert "谁" in spans.question(
        sentence.replace("（", "").replace("）", ""), (start - 1, start + 2, "谁"), "", random.Random(1)
    )


def test_checkpoints_are_averaged(average: ModuleType, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    for name, value in (("a", 1.0), ("b", 2.0), ("c", 6.0)):
        (tmp_path / name).mkdir()
        save_file({"x": np.full((2, 3), value, np.float32)}, tmp_path / name / "model.safetensors")
        for file in ("config", "run"):
            (tmp_path / name / f"{file}.json").write_text(f'"{name}"')
    average.average(tmp_path / "out", [tmp_path / name for name in "abc"])
    assert (load_file(tmp_path / "out" / "model.safetensors")["x"] == 3).all()
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    assert (tmp_path / "out" / "config.json").read_text() == '"c"'
    save_file({"x": np.zeros((1, 3), np.float32)}, tmp_path / "c" / "model.safetensors")
    with pytest.raises(ValueError, match="other tensors"):
        average.average(tmp_path / "again", [tmp_path / "a", tmp_path / "c"])
    with pytest.raises(FileExistsError, match="new folder"):
        average.average(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
