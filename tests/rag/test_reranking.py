"""A cross-encoder orders what search found: a tiny one with random weights, made here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanpaca.core.errors import BadInput, BadModelFile, ModelNotFound
from hanpaca.rag import Library, answer
from hanpaca.rag.reranking import RERANKED, CrossEncoderReranker, load_reranker

QUESTION = "羊驼住在哪里？"


def write_cross_encoder(folder: Path, labels: int = 1) -> Path:
    """A Bert of one layer over single characters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    characters = sorted(set(QUESTION + "第只羊驼住在高原上吃草毛很软。0123456789"))
    vocabulary = {text: number for number, text in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=128,
    )  # fmt: skip
    torch.manual_seed(5)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_labels": labels,
    }
    config = BertConfig(vocab_size=len(vocabulary), initializer_range=0.5, **shape)
    fast.save_pretrained(folder)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cross_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    with Library.open(tmp_path_factory.mktemp("library")) as opened:
        for number in range(RERANKED + 4):
            opened.add_text(f"第{number}只羊驼住在高原上。毛很软。{'吃草。' * number}", f"羊驼{number}", embed=False)
        yield opened


def test_the_best_passages_are_ordered_by_the_cross_encoder(library: Library, encoder: Path) -> None:
    from sentence_transformers import CrossEncoder

    plain = library.search(QUESTION, k=RERANKED, mode="keywords", merge=False)
    scores = CrossEncoder(str(encoder)).predict([(QUESTION, hit.text) for hit in plain], show_progress_bar=False)
    wanted = [plain[at].file for at in np.argsort(-scores, kind="stable")]
    assert wanted != [hit.file for hit in plain]
    found = library.search(QUESTION, k=3, mode="keywords", merge=False, rerank=str(encoder))
    assert [hit.file for hit in found] == wanted[:3]
    assert [hit.explain["rerank"] for hit in found] == sorted((round(float(s), 4) for s in scores), reverse=True)[:3]
    assert all("rerank" not in hit.explain for hit in plain)


def test_it_does_not_change_whether_there_is_an_answer(library: Library, encoder: Path) -> None:
    for question in (QUESTION, "量子纠缠"):
        without, with_it = (library.find(question, mode="keywords", rerank=name) for name in (None, str(encoder)))
        assert (without.answerable, without.best) == (with_it.answerable, with_it.best)


def test_answers_use_it(library: Library, encoder: Path) -> None:
    reranked = library.search(QUESTION, k=3, rerank=str(encoder))
    assert answer(library, None, QUESTION, k=3, rerank=str(encoder), abstain=False).mode == "extract"
    assert [hit.explain["rerank"] for hit in reranked] == sorted((h.explain["rerank"] for h in reranked), reverse=True)


def test_it_is_loaded_once(encoder: Path) -> None:
    assert load_reranker(str(encoder)) is load_reranker(str(encoder))
    assert load_reranker(str(encoder)).score("?", []).shape == (0,)


def test_what_is_no_reranker(library: Library, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no reranker BAAI/none on this machine"):
        library.search(QUESTION, rerank="BAAI/none")
    with pytest.raises(ModelNotFound, match="holds no reranker"):
        CrossEncoderReranker(str(tmp_path))
    with pytest.raises(BadInput, match="empty"):
        library.search(QUESTION, rerank=" ")
    two = write_cross_encoder(tmp_path / "two", labels=2)
    with pytest.raises(BadModelFile, match="gives 2 scores"):
        library.search(QUESTION, rerank=str(two))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    with pytest.raises(BadModelFile, match="cannot be loaded"):
        library.search(QUESTION, rerank=str(tmp_path / "broken"))
