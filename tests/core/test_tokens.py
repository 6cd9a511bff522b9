"""One tokenizer truth: our GGUF files in llama.cpp and the transformers engine give sentencepiece's ids, always."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sentencepiece
from checkpoints import write_checkpoint

from hanpaca.core.catalog import resolve
from hanpaca.core.engines import open_engine
from hanpaca.core.engines.base import Engine
from hanpaca.core.weights.convert import convert

ODD = [
    *("", " ", "  ", "\n", "\t\n \r\n", "\u3000全角空格\u3000", "a  b   c    d", " 前后有空格 "),
    *("\x07\x1b[0m\x7f\x80\x9f", "\u200b\u200d\ufeff", "🦙🦙 👨‍👩‍👧‍👦 🇨🇳 👍🏽", "𠮷𠀀𪚥 𝒜𝓑", "龘靐齉爩 㐂㐅"),
    *("ﬁ ①Ａｂ％　～", "é e\u0301 ñ", "مرحبا שלום नमस्ते สวัสดี", "한국어 にほんご ｶﾀｶﾅ", "<0x0A><0xE4>", "▁▁ ▁x"),
    *("</s><s>[INST] <<SYS>>\n<pad><unk>", "def f(x):\n\treturn {'k': [x**2 for x in range(10)]}\n"),
    *("SELECT * FROM t WHERE a='b';--", "https://example.org/?q=%E4%BD%A0&x=1#y", "3.14e-10, 1,234.89 ½ ² ₃"),
    *("\U0010ffff\U000e0001", "臺灣繁體中文與簡體中文混排，「引號」與『引號』。", "——……《》〈〉【】"),
    *("A" * 300, "的" * 300, "哈" * 7 + "!" * 9),
]


@pytest.fixture(scope="session")
def passages(data: Path) -> list[str]:
    """3,500 and more: simplified, traditional, English, code, statutes, classical prose, and what nobody expects."""
    choose = random.Random(0)
    found = list(ODD)
    for name in ("documents", "distractors"):
        rows = (data / f"qa/dev/{name}.jsonl").read_text(encoding="utf-8").strip().split("\n")
        found += [json.loads(row)["text"][:400] for row in choose.sample(rows, 300)]
    for name, count in (("古典诗文", 600), ("现行法律", 500), ("红楼梦", 300), ("english-wiki_demo", 500)):
        found += lines(data / f"plaintext/{name}.txt", count, choose)
    for name, count in (("debmake-doc.en", 500), ("debian-reference.zh-cn", 600), ("fortunes-zh-tang300", 150)):
        found += lines(data / f"docs/txt/{name}.txt", count, choose)
    alphabet = [
        *map(chr, range(1, 0x500)),
        *"你好的是不了在人有我他这个们，。？！的\n ",
        *map(chr, range(0x1F300, 0x1F6FF)),
    ]
    found += ["".join(choose.choices(alphabet, k=choose.randrange(1, 60))) for _ in range(300)]
    assert len(found) >= 3_500
    return found


def lines(path: Path, count: int, choose: random.Random) -> list[str]:
    """Random lines as they stand, leading blanks included, each third with its successor."""
    text = path.read_text(encoding="utf-8").split("\n")
    starts = choose.sample(range(len(text) - 1), min(count, len(text) - 1))
    return [text[i] if i % 3 else f"{text[i]}\n{text[i + 1]}" for i in starts]


@pytest.fixture(scope="session", params=[55_296, 32_000])
def tokenizers(
    request: pytest.FixtureRequest, chinese_model: Path, llama_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Callable[[str], list[int]], Engine, Engine]]:
    """sentencepiece itself, llama.cpp over a converted checkpoint, the transformers engine over the checkpoint."""
    model = chinese_model if request.param == 55_296 else llama_model
    folder = tmp_path_factory.mktemp("tokens")
    checkpoint = write_checkpoint(
        folder / "c", tokenizer_model=model, vocabulary=request.param, hidden=32, ffn=32, layers=1, dtype="float16"
    )
    gguf = convert(checkpoint, folder / "m.gguf", "f16")
    engines = [open_engine(resolve(path), {"context": 64}) for path in (gguf, checkpoint)]
    yield sentencepiece.SentencePieceProcessor(model_file=str(model)).encode, engines[0], engines[1]
    for engine in engines:
        engine.close()


def test_ids_are_sentencepieces(tokenizers, passages: list[str]) -> None:
    pieces, llama_cpp, transformers = tokenizers
    expected = [pieces(text) for text in passages]
    assert [t for t, ids in zip(passages, expected, strict=True) if llama_cpp.tokenize(t) != ids] == []
    assert [t for t, ids in zip(passages, expected, strict=True) if transformers.tokenize(t) != ids] == []


def test_bytes_of_the_ids_are_the_text(tokenizers, passages: list[str]) -> None:
    """But for the blank that sentencepiece puts in front, and its own sign for a blank, which no id tells from one."""
    _, *engines = tokenizers
    for engine in engines:
        for text in passages[::4]:
            joined = b"".join(map(engine.token_bytes, engine.tokenize(text))).decode("utf-8", "replace")
            assert joined == (" " + text if text else "").replace("▁", " "), engine.identity


def test_control_tokens_only_where_they_are_asked_for(tokenizers) -> None:
    _, *engines = tokenizers
    for engine in engines:
        assert not {0, 1, 2} & set(engine.tokenize("<s>你好</s><unk>"))
        assert [i for i in engine.tokenize("<s>你好</s>", special=True) if i < 3] == [1, 2]
