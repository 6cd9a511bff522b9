"""Vocabularies against the real tokenizers, sentencepiece, Hugging Face's tokenizers, llama.cpp, and real weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from checkpoints import write_checkpoint, write_tokenizer
from test_convert import byte_level_folder
from training_runs import SENTENCES

from hanpaca.core.engines.llama_cpp import LlamaCppEngine, LlamaCppOptions
from hanpaca.core.errors import BadInput, BadModelFile
from hanpaca.core.gguf_header import read, rope_of
from hanpaca.core.vocabulary.byte_level import extend_merges
from hanpaca.core.vocabulary.corpus import documents, lines, text_files
from hanpaca.core.vocabulary.grow import Start, grow
from hanpaca.core.vocabulary.pieces import EAST_ASIAN, merge_pieces, read_model, train_pieces
from hanpaca.core.vocabulary.replaced import replaced_tokens
from hanpaca.core.vocabulary.report import measure
from hanpaca.core.weights.checkpoint import Checkpoint
from hanpaca.core.weights.convert import convert
from hanpaca.integrations.cli import main

TINY = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}


def processor(path: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


@pytest.fixture(scope="module")
def first_generation(data: Path, llama_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("merged") / "tokenizer.model"
    merge_pieces(llama_model, data / "tokenizers/chinese_sp-20000.model", out)
    return out


@pytest.fixture(scope="module")
def stories(data: Path) -> list[str]:
    return list(lines([data / "plaintext/cmrc2019-故事.txt"]))[:150]


@pytest.fixture(scope="module")
def english(data: Path) -> list[str]:
    return list(lines([data / "plaintext/english-wiki_demo.txt"]))


@pytest.fixture(scope="module")
def smol_folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's tokenizer beside random weights."""
    return byte_level_folder(tmp_path_factory.mktemp("smol") / "m", smollm2)


@pytest.fixture(scope="module")
def extended(smol_folder: Path, stories: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's tokenizer with 500 more merges, in a folder with its other files."""
    out = tmp_path_factory.mktemp("extended") / "t"
    shutil.copytree(smol_folder, out, ignore=shutil.ignore_patterns("*.safetensors"))
    assert extend_merges(smol_folder / "tokenizer.json", stories, out / "tokenizer.json", 500) == 500
    return out


# -- sentencepiece -------------------------------------------------------------------------------------------------


def test_the_merge_has_the_published_size_and_keeps_every_id(first_generation: Path, llama_model: Path) -> None:
    merged, base = read_model(first_generation), read_model(llama_model)
    assert len(merged.pieces) == merged.trainer_spec.vocab_size == 49_953
    assert list(merged.pieces[:32_000]) == list(base.pieces)
    assert len({piece.piece for piece in merged.pieces}) == 49_953


def test_english_is_split_as_before_and_chinese_better(
    first_generation: Path, llama_model: Path, english: list[str], stories: list[str]
) -> None:
    before, after = processor(llama_model), processor(first_generation)
    assert [after.encode(line) for line in english] == [before.encode(line) for line in english]
    old, new = measure(llama_model, stories), measure(first_generation, stories)
    assert new.characters_per_token > 1.9 * old.characters_per_token
    assert new.fragment_share < 0.01 < 0.5 < old.fragment_share


def test_llama_cpp_splits_a_merged_vocabulary_as_sentencepiece_does(
    first_generation: Path, tmp_path: Path, english: list[str], stories: list[str]
) -> None:
    folder = write_checkpoint(tmp_path / "m", vocabulary=49_953, hidden=32, ffn=32, layers=1)
    write_tokenizer(folder, first_generation, pad=False)
    native = LlamaCppEngine(
        path := convert(folder, tmp_path / "m.gguf"), rope_of(read(path)), LlamaCppOptions(context=64)
    )
    try:
        truth = processor(first_generation)
        for line in [*english[:5], *stories[:40]]:
            assert native.tokenize(line[:2000]) == truth.encode(line[:2000])
    finally:
        native.close()


def test_newly_trained_pieces_merge_to_a_wanted_size_with_a_pad(
    stories: list[str], llama_model: Path, english: list[str], tmp_path: Path
) -> None:
    train_pieces(stories, tmp_path / "new.model", 3500, coverage=0.99)
    merged = merge_pieces(llama_model, tmp_path / "new.model", tmp_path / "m.model", pad=True, size=34_048)
    assert (merged.base, merged.added, merged.size) == (32_000, 2_048, 34_048)
    after = processor(tmp_path / "m.model")
    assert (after.id_to_piece(32_000), after.is_control(32_000)) == ("<pad>", True)
    assert [after.encode(line) for line in english[:5]] == [processor(llama_model).encode(line) for line in english[:5]]
    old, new = measure(llama_model, stories), measure(tmp_path / "m.model", stories)
    assert new.characters_per_token > 1.5 * old.characters_per_token
    assert all(after.decode(after.encode(line)) == line for line in stories)
    merge_pieces(llama_model, tmp_path / "new.model", tmp_path / "c.model", chinese_only=True)
    assert all(EAST_ASIAN.search(piece.piece) for piece in read_model(tmp_path / "c.model").pieces[32_000:])


def test_what_cannot_be_merged_or_trained_is_refused(llama_model: Path, data: Path, tmp_path: Path) -> None:
    new = data / "tokenizers/chinese_sp-20000.model"
    with pytest.raises(BadInput, match="cannot be reached"):
        merge_pieces(llama_model, new, tmp_path / "m.model", size=60_000)
    with pytest.raises(BadModelFile, match="no sentencepiece model"):
        merge_pieces(llama_model, data / "plaintext/红楼梦.txt", tmp_path / "m.model")
    with pytest.raises(BadInput, match="could not be trained"):
        train_pieces(["短"], tmp_path / "t.model", 20_000)
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(BadInput, match=r"picture\.txt is no text file: This is a PNG image"):
        list(lines(text_files([tmp_path])))
    (tmp_path / "picture.txt").unlink()
    (tmp_path / "rows.jsonl").write_text('{"text": "一"}\n{"txet": "二"}\n')
    with pytest.raises(BadInput, match=r"rows\.jsonl, line 2: no text in it\. Give it a field text or content"):
        list(lines(text_files([tmp_path])))


def test_why_no_pieces_could_be_trained_is_said(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "一"}\n{"txet": "二"}\n')
    with pytest.raises(BadInput, match=r"rows\.jsonl, line 2: no text in it"):
        train_pieces(lines(text_files([tmp_path])), tmp_path / "t.model", 300)
    with pytest.raises(BadInput, match="could not be trained: the texts are empty"):
        train_pieces([], tmp_path / "t.model", 300)
    with pytest.raises(BadInput, match="300 to 1,000,000 pieces"):
        train_pieces(["短"], tmp_path / "t.model", 10**12)


@pytest.mark.parametrize("table", [{"model": []}, {"model": None}, {}, {"model": {**TINY["model"], "vocab": {}}}])
def test_what_is_no_byte_level_tokenizer_is_refused(tmp_path: Path, table: dict[str, Any]) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(BadModelFile, match="no byte-level BPE tokenizer"):
        extend_merges(tmp_path / "tokenizer.json", ["中文"], tmp_path / "out.json", 5)


def test_only_a_vocabulary_is_overwritten(tmp_path: Path) -> None:
    """Neither what is read, nor a file of another kind."""
    text, other = tmp_path / "mine.txt", tmp_path / "keep.json"
    text.write_text("\n" + "\n".join(SENTENCES * 3), encoding="utf-8")
    other.write_text('{"mine": 1}')
    before = text.read_bytes(), other.read_bytes()
    byte_level = tmp_path / "tokenizer.json"
    byte_level.write_text(json.dumps(TINY))
    for file in (text, other):
        with pytest.raises(BadInput, match=f"{file.name} exists and is no sentencepiece model"):
            train_pieces(lines([text]), file, 420)
        with pytest.raises(BadInput, match=f"{file.name} exists and is no tokenizer.json"):
            extend_merges(byte_level, lines([text]), file, 5)
    model = train_pieces(lines([text]), tmp_path / "a.model", 420, coverage=0.98)
    train_pieces(lines([text]), tmp_path / "b.model", 430, coverage=0.98)
    with pytest.raises(BadInput, match="exists and is no sentencepiece model"):
        merge_pieces(model, tmp_path / "b.model", other)
    assert (text.read_bytes(), other.read_bytes()) == before
    assert train_pieces(lines([text]), model, 420, coverage=0.98) == model


def test_texts_in_chinese_encodings_and_json_lines_are_read(tmp_path: Path) -> None:
    for number, encoding in enumerate(("gb18030", "big5", "utf-16", "utf-8-sig")):
        (tmp_path / f"{number}.txt").write_text("中國人民的文字，在這裡。\n\n第二行", encoding=encoding)
    (tmp_path / "9.jsonl").write_text('{"text": "中國人民的文字，在這裡。\\n第二行"}\n\n', encoding="utf-8")
    assert list(lines(text_files([tmp_path]))) == ["中國人民的文字，在這裡。", "第二行"] * 5


def test_line_ends_capital_suffixes_and_encodings_of_json_lines(tmp_path: Path) -> None:
    (tmp_path / "A.TXT").write_bytes(b"one\r\ntwo\rthree\n")
    row = '{"text": "中國人民的文字，在這裡。"}\r\n{"text": "中國人民的第二行文字"}\n'
    for name, encoding in (("b.jsonl", "gb18030"), ("c.JSONL", "utf-16"), ("d.jsonl", "utf-8-sig")):
        (tmp_path / name).write_bytes(row.encode(encoding))
    found = list(documents(text_files([tmp_path])))
    assert found[0].text == "one\ntwo\nthree\n"
    assert [document.text for document in found[1:]] == ["中國人民的文字，在這裡。", "中國人民的第二行文字"] * 3


# -- byte-level BPE ------------------------------------------------------------------------------------------------


def test_appended_merges_keep_ids_and_english(
    smol_folder: Path, extended: Path, english: list[str], stories: list[str]
) -> None:
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel

    old, new = (json.loads((folder / "tokenizer.json").read_text()) for folder in (smol_folder, extended))
    assert new["model"]["vocab"].items() >= old["model"]["vocab"].items()
    assert new["model"]["merges"][: len(old["model"]["merges"])] == old["model"]["merges"]
    before, after = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (smol_folder, extended))
    after.decoder = ByteLevel()
    # One article names a film by its Japanese title, which may well be split otherwise.
    plain = [EAST_ASIAN.sub("", line) for line in english]
    assert [after.encode(line).ids for line in plain] == [before.encode(line).ids for line in plain]
    assert all(after.decode(after.encode(line).ids) == line for line in stories)
    assert measure(extended, stories).characters_per_token > 1.4 * measure(smol_folder, stories).characters_per_token


def test_llama_cpp_splits_an_extended_vocabulary_as_tokenizers_does(
    smol_folder: Path, extended: Path, tmp_path: Path, stories: list[str]
) -> None:
    from tokenizers import Tokenizer

    made = grow(smol_folder, extended, tmp_path / "m", multiple=128)
    assert made.rows % 128 == 0
    assert made.before + 500 == made.tokens <= made.rows
    truth = Tokenizer.from_file(str(extended / "tokenizer.json"))
    native = LlamaCppEngine(
        path := convert(tmp_path / "m", tmp_path / "m.gguf"), rope_of(read(path)), LlamaCppOptions(context=64)
    )
    try:
        for line in stories[:60]:
            assert native.tokenize(line) == truth.encode(line, add_special_tokens=False).ids
    finally:
        native.close()


# -- growing -------------------------------------------------------------------------------------------------------


def test_new_rows_are_the_mean_of_the_tokens_they_replace(
    first_generation: Path, llama_model: Path, tmp_path: Path
) -> None:
    old = write_checkpoint(tmp_path / "old", tokenizer_model=llama_model, vocabulary=32_000, hidden=32, layers=1)
    (tmp_path / "t").mkdir()
    write_tokenizer(tmp_path / "t", first_generation, pad=False)
    made = grow(old, tmp_path / "t", tmp_path / "new", multiple=64)
    assert (made.before, made.tokens, made.rows) == (32_000, 49_953, 49_984)
    before, after = Checkpoint.open(old), Checkpoint.open(tmp_path / "new")
    assert after.config["vocab_size"] == 49_984
    pieces, base = processor(first_generation), processor(llama_model)
    token = next(i for i in range(32_000, 49_953) if pieces.id_to_piece(i) == "中国")
    parts = [base.piece_to_id("中"), base.piece_to_id("国")]
    assert replaced_tokens(old, tmp_path / "t")[token] == parts
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        was, now = (c.tensors[name].read(0, c.tensors[name].rows) for c in (before, after))
        assert np.array_equal(now[:32_000], was)
        np.testing.assert_allclose(now[token], was[parts].mean(axis=0), atol=1e-7)
        np.testing.assert_allclose(now[49_953:], np.tile(was.mean(axis=0), (31, 1)), atol=1e-6)
    with pytest.raises(BadInput, match="Token 259 is"):
        write_tokenizer(tmp_path / "t", _other(tmp_path), pad=False)
        grow(old, tmp_path / "t", tmp_path / "x")


def _other(folder: Path) -> Path:
    train_pieces(["天地玄黄宇宙洪荒" * 9, "一二三四五六七八九十" * 9], folder / "other.model", 300)
    return folder / "other.model"


def test_real_weights_start_lower_with_means_than_with_random_rows(
    smollm2: Path, smol_folder: Path, extended: Path, stories: list[str], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer
    from transformers import GgufConfig, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    shutil.copytree(smol_folder, tmp_path / "old", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(tmp_path / "old")
    del model
    ids = Tokenizer.from_file(str(extended / "tokenizer.json")).encode("".join(stories[:2])[:300]).ids
    losses = {}
    starts: tuple[Start, ...] = ("mean", "random")
    for start in starts:
        grow(tmp_path / "old", extended, tmp_path / start, start=start)
        grown = LlamaForCausalLM.from_pretrained(tmp_path / start, dtype=torch.float32)
        with torch.no_grad():
            losses[start] = float(grown(torch.tensor([ids]), labels=torch.tensor([ids])).loss)
        shutil.rmtree(tmp_path / start)
    assert losses["mean"] < losses["random"] - 0.5


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command_merges_and_reports(
    data: Path, llama_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, out = data / "tokenizers/chinese_sp-20000.model", tmp_path / "m.model"
    assert main(["vocab", "merge", str(llama_model), str(new), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pieces"] == 49_953
    text = str(data / "plaintext/cmrc2019-故事.txt")
    assert main(["vocab", "report", str(llama_model), str(out), "--text", text, "--json"]) == 0
    old, merged = (row["characters_per_token"] for row in json.loads(capsys.readouterr().out)["tokenizers"])
    assert merged > 1.9 * old
    assert main(["vocab", "mrege"]) == 2
    assert "mrege" in capsys.readouterr().err


def test_new_tokens_begin_as_means_also_in_rows_to_spare(tmp_path: Path) -> None:
    """A checkpoint of 448 rows over 420 pieces grows to 440: all new tokens lie in rows that it had to spare."""
    import numpy as np
    from training_runs import SENTENCES, write_base

    from hanpaca.core.vocabulary.grow import grow
    from hanpaca.core.vocabulary.pieces import merge_pieces, train_pieces
    from hanpaca.core.vocabulary.replaced import replaced_tokens
    from hanpaca.core.weights.checkpoint import Checkpoint

    model = write_base(tmp_path / "b")
    more = train_pieces([text * 2 for text in SENTENCES] * 3, tmp_path / "more.model", 520, coverage=1.0, threads=1)
    (tmp_path / "new").mkdir()
    merge_pieces(model / "tokenizer.model", more, tmp_path / "new" / "tokenizer.model", size=440)
    (model / "tokenizer_config.json").write_text('{"chat_template": "x"}', encoding="utf-8")
    assert grow(model, tmp_path / "new", tmp_path / "grown").rows == 448
    before, after = (
        Checkpoint.open(folder).tensors["model.embed_tokens.weight"] for folder in (model, tmp_path / "grown")
    )
    old, new = before.read(0, 448), after.read(0, 448)
    groups = {token: parts for token, parts in replaced_tokens(model, tmp_path / "new").items() if parts}
    assert set(groups) <= set(range(420, 440)) and groups
    for token, parts in groups.items():
        assert np.allclose(new[token], old[parts].mean(axis=0), atol=1e-6)
    assert np.array_equal(new[:420], old[:420]) and np.array_equal(new[440:], old[440:])
    assert (tmp_path / "grown" / "tokenizer_config.json").is_file(), "the chat template goes along"
    with pytest.raises(BadInput, match="would be lost"):
        merge_pieces(model / "tokenizer.model", more, more)
