"""The Chinese reader's lessons: the app's own prompts, answers that stand in their source, documents held out."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripted import CAPITALS

from hanpaca.core.training.options import FinetuneOptions, from_json
from hanpaca.rag import Library
from hanpaca.rag.prompts import CHINESE

RECIPE = Path(__file__).parents[2] / "examples" / "chinese_reader"
ROW: dict[str, Any] = {
    "id": "q-1", "question": "东京塔高多少米？", "doc_id": "日本", "answers": ["三百三十三米"], "answer_start": [12],
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reader_data", RECIPE / "data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reader_data"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    with Library.open(tmp_path_factory.mktemp("library")) as opened:
        for name, text in CAPITALS:
            opened.add_text(text, name, embed=False)
        opened.embed_pending()
        yield opened


def test_an_answer_stands_in_the_source_that_it_names(recipe: ModuleType, library: Library) -> None:
    first, *_ = recipe.examples(library, ROW)
    *_, asked, answer = first["messages"]
    text, number = answer["content"].removesuffix("]").split("[")
    assert text == "三百三十三米" and asked["content"].endswith("问题：东京塔高多少米？")
    line = next(line for line in asked["content"].splitlines() if line.startswith(f"[{number}] "))
    assert text in line


def test_a_question_without_its_passages_has_no_answer(recipe: ModuleType, library: Library) -> None:
    rows = [ROW | {"id": f"q-{n}"} for n in range(40)]
    made = [example for row in rows for example in recipe.examples(library, row)]
    absent = [one for one in made if one["messages"][-1]["content"] == CHINESE.absent]
    assert 0 < len(absent) < 40 and all("三百三十三米" not in str(one["messages"][:-1]) for one in absent)
    assert list(recipe.examples(library, rows[3])) == list(recipe.examples(library, rows[3])), "always the same"


def test_translations_are_held_out_together(recipe: ModuleType) -> None:
    for n in range(50):
        rows = {"doc_id": f"zh-{n}", "parallel_doc_id": f"en-{n}"}, {"doc_id": f"en-{n}", "parallel_doc_id": f"zh-{n}"}
        assert recipe.held_out(rows[0]) == recipe.held_out(rows[1])
    assert 5 < sum(recipe.held_out({"doc_id": f"d-{n}"}) for n in range(100)) < 40


def test_the_recipe_names_options_that_there_are() -> None:
    options = from_json(RECIPE / "reader.json")
    assert isinstance(options, FinetuneOptions) and options.prompt_weight == 0.1 and options.also == ()
