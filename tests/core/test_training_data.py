"""What is trained on: golden ids and marks of conversations, blocks of text, packing, and rows that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_runs import ROWS, SENTENCES, write_base, write_rows

from hanpaca.core.chat import DEFAULT_SYSTEM_PROMPT, Llama2Template, Message, Template
from hanpaca.core.chat_jinja import JinjaTemplate
from hanpaca.core.errors import BadInput
from hanpaca.core.training.base import Base, open_base
from hanpaca.core.training.conversations import ANSWER, FIRST, PROMPT, Encoder
from hanpaca.core.training.options import FinetuneOptions, PretrainOptions, as_json, from_json, make
from hanpaca.core.training.rows import conversations, preferences
from hanpaca.core.training.texts import conversations_source, instruction_files

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = write_base(tmp_path_factory.mktemp("base") / "b")
    return open_base(str(folder), folder.parent)


def encoder(base: Base, template: Template | None = None, length: int = 512) -> Encoder:
    return Encoder(template or Llama2Template(), base.tokenizer, length)


def talk(*texts: str, system: str | None = None) -> list[Message]:
    found = [Message("system", system)] if system is not None else []
    return found + [Message("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)]


# -- labels: exactly the answer and its end ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "opening"),
    [
        (talk("你好", "春眠"), f"<<SYS>>\n{DEFAULT_SYSTEM_PROMPT}\n<</SYS>>\n\n"),
        (talk("你好", "春眠", system="答诗"), "<<SYS>>\n答诗\n<</SYS>>\n\n"),
        (talk("你好", " 春眠\n不觉晓 "), f"<<SYS>>\n{DEFAULT_SYSTEM_PROMPT}\n<</SYS>>\n\n"),
        (talk("一", "二", "三", "四"), f"<<SYS>>\n{DEFAULT_SYSTEM_PROMPT}\n<</SYS>>\n\n"),
    ],
    ids=["default", "system", "blanks", "two turns"],
)
def test_llama2_golden_ids(base: Base, messages: list[Message], opening: str) -> None:
    """Against sentencepiece itself: BOS and prompt are read, the answer by itself and EOS are trained, turn by turn."""
    import sentencepiece

    sp: Any = sentencepiece.SentencePieceProcessor(model_file=str(base.folder / "tokenizer.model"))
    turns = [m.content for m in messages if m.role != "system"]
    ids: list[int] = []
    marks: list[int] = []
    for number, (asked, answered) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
        prompt = [1, *sp.encode(f"[INST] {opening if number == 0 else ''}{asked} [/INST]")]
        answer = [*sp.encode(answered), 2]
        ids += prompt + answer
        marks += [PROMPT] * len(prompt) + [ANSWER] * len(answer)
    (found,) = encoder(base).examples(messages)
    assert found.ids.tolist() == ids
    assert found.marks.tolist() == [FIRST, *marks[1:]]


def test_chatml_golden_ids(smollm2: Path, tmp_path: Path) -> None:
    """SmolLM2's own template: what is read is the inference prompt, what is trained the answer and <|im_end|>."""
    from hanpaca.core.engines.torch_tokenizer import open_tokenizer
    from hanpaca.core.training.base import TrainingTokenizer

    tokenizer = TrainingTokenizer(open_tokenizer(smollm2, 49_152))
    assert tokenizer.chat_template is not None
    made = Encoder(JinjaTemplate(tokenizer.chat_template), tokenizer, 512)
    (found,) = made.examples(talk("Hi", "Hello there.", "你好", "您好！\n"))

    def special(text: str) -> list[int]:
        return tokenizer.tokenize(text, special=True)

    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    parts = [
        (special(f"{system}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), PROMPT),
        (special("Hello there.<|im_end|>"), ANSWER),
        (special("\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"), PROMPT),
        (special("您好！\n<|im_end|>"), ANSWER),
    ]
    assert found.ids.tolist() == [token for ids, _ in parts for token in ids]
    assert found.marks.tolist()[1:] == [mark for ids, mark in parts for _ in ids][1:]


def test_a_template_that_rewrites_history_gives_one_example_for_each_answer(base: Base) -> None:
    """Where an earlier answer is shown otherwise later on, each answer is trained after the prompt it will meet."""
    marks_history = (
        "{% for m in messages %}{{ (m['role'][0] if loop.last or m['role'] == 'user' else 'before') + ':' "
        "+ m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    made = encoder(base, JinjaTemplate(marks_history))
    found = list(made.examples(talk("一", "二", "三", "四")))
    assert len(found) == 2
    asked = [talk("一"), talk("一", "二", "三")]
    for example, messages, answer in zip(found, asked, ("二", "四"), strict=True):
        trained = example.marks == ANSWER
        assert example.ids[~trained].tolist() == made.prompt(messages)
        assert b"".join(map(base.tokenizer.token_bytes, example.ids[trained][:-1])).decode().strip() == answer
        assert example.ids[-1] == made.end


def test_packed_batches_foresee_the_answers_and_nothing_else(base: Base, tmp_path: Path) -> None:
    from hanpaca.core.training.batches import Batches

    options = FinetuneOptions(
        base="", data=(str(write_rows(tmp_path / "r.jsonl")),), out="", template="llama-2", length=256, batch=600
    )
    source = conversations_source(options, base, tmp_path / "cache", None)
    batches = Batches(source, tokens=600, epochs=1, seed=3)
    assert len(source) == len(ROWS)
    seen = []
    for number in range(len(batches)):
        batch = batches[number]
        ids, positions = batch["input_ids"][0], batch["position_ids"][0]
        assert len(ids) <= 600
        assert sum(batch["segments"]) == len(ids)
        assert torch.equal(ids[batch["keep"] + 1], batch["targets"])
        assert bool((positions[batch["keep"] + 1] == positions[batch["keep"]] + 1).all())  # never across texts
        seen.append(batch["targets"].tolist())
    answers = sorted(tuple([*base.tokenizer.tokenize(row["output"]), base.tokenizer.vocabulary.eos]) for row in ROWS)
    found: list[tuple[int, ...]] = []
    for targets in seen:
        held: list[int] = []
        for token in targets:
            held.append(token)
            if token == base.tokenizer.vocabulary.eos:
                found.append(tuple(held))
                held = []
        assert not held
    assert sorted(found) == answers
    again = Batches(source, tokens=600, epochs=1, seed=3)
    assert all(torch.equal(batches[n]["input_ids"], again[n]["input_ids"]) for n in range(len(batches)))
    other = Batches(source, tokens=600, epochs=1, seed=4)
    assert not torch.equal(batches[0]["input_ids"], other[0]["input_ids"])


def test_prompts_count_as_much_as_asked(base: Base, tmp_path: Path) -> None:
    options = FinetuneOptions(
        base="", data=(str(write_rows(tmp_path / "r.jsonl")),), out="", template="llama-2", prompt_weight=0.1
    )
    item = conversations_source(options, base, tmp_path / "cache", None).item(0)
    assert item.weights[0] == 0
    assert set(item.weights[1:].tolist()) == {np.float32(0.1), 1.0}


def test_long_conversations_are_cut_between_turns(base: Base) -> None:
    turns = [text for n in range(6) for text in (f"第{n}句？", SENTENCES[n])]
    whole = encoder(base)
    (one,) = whole.examples(talk(*turns, system="诗"))
    made = encoder(base, length=len(one.ids) // 3)
    parts = list(made.examples(talk(*turns, system="诗")))
    assert len(parts) > 2
    assert all(len(part.ids) <= made.length for part in parts)
    assert made.cut.at_turns == len(parts) - 1
    assert made.cut.answers == made.cut.left_out == 0
    trained = sum(int((part.marks == ANSWER).sum()) for part in parts)
    assert trained == int((one.marks == ANSWER).sum())
    opening = base.tokenizer.tokenize("[INST] <<SYS>>\n诗\n<</SYS>>")[:-1]
    assert all(part.ids.tolist()[1 : 1 + len(opening)] == opening for part in parts)


def test_answers_that_are_too_long_lose_their_end_and_are_counted(base: Base) -> None:
    made = encoder(base, Llama2Template(""), length=24)
    (found,) = made.examples(talk("诗？", SENTENCES[0]))
    assert len(found.ids) == 24
    assert found.ids[-1] != 2
    assert made.cut.answers == 1
    assert not list(made.examples(talk(SENTENCES[0] * 3, "好")))
    assert made.cut.left_out == 1


# -- rows ----------------------------------------------------------------------------------------------------------


def test_every_format_is_read(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": "问", "input": "补", "output": "答", "system": "系", "history": [["前", "后"]]},
        {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}], "system": "系"},
        {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]},
        {"prompt": "问", "response": "答"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="gb18030")
    found, refused = conversations([tmp_path / "a.json"])
    assert not refused.rows
    assert [[(m.role[0], m.content) for m in row.messages] for row in found] == [
        [("s", "系"), ("u", "前"), ("a", "后"), ("u", "问\n补"), ("a", "答")],
        [("s", "系"), ("u", "问"), ("a", "答")],
        [("u", "问"), ("a", "答")],
        [("u", "问"), ("a", "答")],
    ]


def test_pairs_of_answers_are_read(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "问"}
    good, bad = ({"from": "gpt", "value": text} for text in ("好", "坏"))
    rows: list[dict[str, Any]] = [
        {"conversations": [{"from": "human", "value": "问"}], "chosen": good, "rejected": bad},
        {"prompt": "问", "chosen": "好", "rejected": "坏"},
        {"chosen": [asked, good], "rejected": [asked, bad]},
    ]
    found, _ = preferences([write_rows(tmp_path / "p.jsonl", rows)])
    pairs = [([m.content for m in row.messages], row.chosen, row.rejected) for row in found]
    assert pairs == [(["问"], "好", "坏")] * 3


def test_all_that_a_pair_says_is_in_its_question_or_it_is_refused(tmp_path: Path) -> None:
    def user(text: str) -> dict[str, str]:
        return {"role": "user", "content": text}

    good, bad = ({"role": "assistant", "content": text} for text in ("好", "坏"))
    system = {"role": "system", "content": "系"}
    pair = {"chosen": [user("问"), good], "rejected": [user("问"), bad]}
    rows = [
        pair | {"system": "系"},
        pair | {"prompt": "问", "system": "系"},
        {"chosen": [system, user("问"), good], "rejected": [bad]},
        pair | {"rejected": [system, user("问"), bad]},
    ]
    found, _ = preferences([write_rows(tmp_path / "p.jsonl", rows)])
    talks = [[(m.role[0], m.content) for m in row.messages] for row in found]
    assert talks == [[("s", "系"), ("u", "问")]] * 4
    wrong = [
        (pair | {"rejected": [user("另"), bad]}, "its answers follow different questions"),
        (pair | {"prompt": "另"}, "its answers follow different questions"),
        (pair | {"system": "一", "rejected": [system, user("问"), bad]}, "it has different system prompts"),
        (pair | {"chosen": [user("问"), good, user("再问")]}, "its chosen ends with a message of the user"),
        (pair | {"rejected": user("问")}, "its rejected ends with a message of the user"),
        (pair | {"chosen": []}, "a message is no object"),
    ]
    for row, why in wrong:
        with pytest.raises(BadInput, match=f"line 1: {why}"):
            preferences([write_rows(tmp_path / "p.jsonl", [row])])


def test_bad_rows_stop_with_file_and_line_or_are_skipped_by_choice(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    good = json.dumps(ROWS[1], ensure_ascii=False)
    bad = ['{"instruction": "问"}', "no json", '{"instruction": "问", "output": "  "}', '{"messages": [{"role": "x"}]}']
    file.write_text("\n".join([good, bad[0], "", *bad[1:], good]), encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        conversations([file])
    for line, reason in ((2, "none of: output"), (4, "no JSON"), (5, "an answer is empty"), (6, "'x' is not a role")):
        assert f"bad.jsonl, line {line}: " in str(caught.value)
        assert reason in str(caught.value)
    found, refused = conversations([file], "skip")
    assert (len(found), len(refused.rows)) == (2, 4)
    assert [row.place.line for row in found] == [1, 7]


def test_rows_of_an_array_have_the_line_they_begin_in(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('[\n {"instruction": "问", "output": "答"},\n {\n "instruction": "" ,"output": "答"}\n]')
    with pytest.raises(BadInput, match=r"a\.json, line 3: the instruction is empty"):
        conversations([file])


@pytest.mark.parametrize("form", ["lines", "array"])
def test_rows_with_damaged_bytes_are_bad_rows(tmp_path: Path, form: str) -> None:
    """Others of the file are well, also one that has the sign for lost bytes in a well file."""
    lines = [json.dumps({"instruction": "问" * 9, "output": text}, ensure_ascii=False) for text in ("答", "坏", "对")]
    whole = "\n".join(lines) if form == "lines" else "[" + ",\n".join(lines) + "]"
    file = tmp_path / "rows.json"
    file.write_bytes(whole.encode().replace("坏".encode(), "坏".encode()[:2]))
    with pytest.raises(BadInput, match=r"rows\.json, line 2: it holds bytes that are no utf-8"):
        conversations([file])
    found, refused = conversations([file], "skip")
    assert [row.place.line for row in found] == [1, 3]
    assert len(refused.rows) == 1
    file.write_text(whole.replace("坏", "\ufffd"), encoding="utf-8")
    assert len(conversations([file])[0]) == 3


def test_files_of_a_folder_are_found_in_capitals_too(tmp_path: Path) -> None:
    for name in ("a.json", "B.JSONL", "c.txt", "sub/D.Json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in instruction_files([str(tmp_path)])] == ["B.JSONL", "a.json", "D.Json"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"instruction":' + "[" * 100_000], ids=["array", "lines"])
def test_json_that_is_nested_without_end(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.json").write_text(text)
    with pytest.raises(BadInput, match=r"deep\.json.* line 1.*recursion"):
        conversations([tmp_path / "deep.json"])


# -- options -------------------------------------------------------------------------------------------------------


def test_a_runs_file_gives_the_options_back(tmp_path: Path) -> None:
    options = PretrainOptions(base="b", data=("x.txt",), out="o", mix=("e.txt=0.1",), steps=7)
    (tmp_path / "run.json").write_text(as_json(options))
    assert from_json(tmp_path / "run.json") == options
    assert from_json(tmp_path / "run.json", out="p").differences(options) == []
    assert from_json(tmp_path / "run.json", rank=8).differences(options) == ["rank"]


def test_options_take_lists_and_paths() -> None:
    made = FinetuneOptions(base=Path("b"), data=[Path("x.json"), "y.json"], out=Path("o"), also=[])  # type: ignore[arg-type]
    assert made == FinetuneOptions(base="b", data=("x.json", "y.json"), out="o", also=())


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"rnak": 3}, "rnak: no option"),
        ({"method": "qlora"}, "Valid: lora, full"),
        ({"quantization": "4bit", "method": "full"}, "only be trained with LoRA"),
        ({"length": 9000}, "does not hold an example"),
        ({"warmup": 2.0}, "between 0 and 1"),
        ({"data": []}, "nothing to train on"),
    ],
)
def test_wrong_options_are_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        make(PretrainOptions, {"base": "b", "data": ["d"], "out": "o"} | values)
