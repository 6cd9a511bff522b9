"""Conversion: logits of the written file against transformers, its tokens against sentencepiece, and the refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import edit_json, write_checkpoint
from converted import copy, refused, small, tokenizer_model
from hypothesis import given, settings
from hypothesis import strategies as st
from native_logits import CHUNK, native

from hanpaca.core import gguf_header
from hanpaca.core.errors import UnsupportedFeature
from hanpaca.core.rope import plan
from hanpaca.core.weights.convert import convert

__all__ = ["copy", "small", "tokenizer_model"]

torch = pytest.importorskip("torch")


def reference(folder: Path, tokens: list[int]) -> Iterator[np.ndarray]:
    """transformers' logits, a chunk at a time."""
    from transformers import DynamicCache, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    cache = DynamicCache()
    for start in range(0, len(tokens), CHUNK):
        ids = torch.tensor([tokens[start : start + CHUNK]])
        with torch.inference_mode():
            yield model(ids, past_key_values=cache, use_cache=True).logits[0].numpy()


def worst(file: Path, folder: Path, count: int, **fields: Any) -> tuple[float, int]:
    """(largest relative distance, positions with another argmax) over `count` random tokens."""
    tokens = np.random.default_rng(1).integers(3, 55_000, count).tolist()
    far, differing, largest = 0.0, 0, 0.0
    with native(file, count, **fields) as model:
        for ours, theirs in zip(model.chunks(tokens), reference(folder, tokens), strict=True):
            far = max(far, float(np.abs(ours - theirs).max()))
            largest = max(largest, float(np.abs(theirs).max()))
            differing += int((ours.argmax(1) != theirs.argmax(1)).sum())
    return far / largest, differing


@pytest.mark.parametrize(
    ("kv_heads", "tied"),
    [
        pytest.param(2, False, id="gqa-untied"),
        pytest.param(4, True, id="mha-tied"),
        pytest.param(4, False, id="mha-untied", marks=pytest.mark.slow),
        pytest.param(2, True, id="gqa-tied", marks=pytest.mark.slow),
    ],
)
def test_logits_equal_transformers(tmp_path: Path, tokenizer_model: Path, kv_heads: int, tied: bool) -> None:
    folder = write_checkpoint(
        tmp_path / "model", tokenizer_model=tokenizer_model, kv_heads=kv_heads, tied=tied, bin=tied, shard="10MB"
    )
    file = convert(folder, tmp_path / "model.gguf", "f32")
    assert worst(file, folder, 4096) <= (1e-5, 0)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 128},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_rope_scaling_equals_transformers(tmp_path: Path, tokenizer_model: Path, rope: dict[str, Any]) -> None:
    folder = write_checkpoint(tmp_path / "m", tokenizer_model=tokenizer_model, rope=rope, context=2048, hidden=128)
    notes: list[str] = []
    file = convert(folder, tmp_path / "m.gguf", "f32", on_note=notes.append)
    assert len(notes) == 1
    far, differing = worst(file, folder, 1024)
    assert far <= 1e-5
    assert not differing


@pytest.mark.parametrize(
    "odd",
    [
        {"beta_fast": 16.0, "beta_slow": 2.0},
        {"attention_factor": 0.9},
        {"mscale": 1.0, "mscale_all_dim": 0.707},
    ],
    ids="+".join,
)
def test_unusual_yarn_equals_transformers(tmp_path: Path, tokenizer_model: Path, odd: dict[str, float]) -> None:
    """llama.cpp takes the ramp from context parameters, which come from what the file says."""
    rope = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 128, **odd}
    folder = write_checkpoint(tmp_path / "m", tokenizer_model=tokenizer_model, rope=rope, context=2048, hidden=128)
    file = convert(folder, tmp_path / "m.gguf", "f32")
    fields = plan(gguf_header.rope_of(gguf_header.read(file)), 1024).llama_cpp()
    assert worst(file, folder, 1024, **fields) <= (1e-5, 0)


@pytest.mark.parametrize(
    ("rope", "match"),
    [
        ({"rope_type": "yarn", "factor": 16.0, "truncate": False}, "does not round"),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 128},
            "unusual frequency factors",
        ),
        ({"rope_type": "longrope", "factor": 8.0}, "longrope"),
    ],
    ids=["yarn", "llama3", "longrope"],
)  # fmt: skip
def test_scaling_that_llama_cpp_cannot_do_is_refused(
    copy: Path, tmp_path: Path, rope: dict[str, Any], match: str
) -> None:
    edit_json(copy / "config.json", rope_parameters={"rope_theta": 10_000.0, **rope})
    refused(copy, tmp_path, UnsupportedFeature, match)


def test_the_published_spelling_of_scaling_is_read(copy: Path, tmp_path: Path) -> None:
    """Checkpoints of 2023 say rope_theta and rope_scaling with `type`; the 64K ones also name remote code."""
    config = json.loads((copy / "config.json").read_text())
    del config["rope_parameters"]
    scaling = {"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "finetuned": True}
    config |= {"rope_theta": 10000.0, "rope_scaling": scaling, "max_position_embeddings": 65536}
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_llama_yarn.LlamaForCausalLM"}
    (copy / "config.json").write_text(json.dumps(config))
    found = gguf_header.read(convert(copy, tmp_path / "m.gguf"))
    rope = gguf_header.rope_of(found)
    assert (rope.scaling, rope.factor, rope.original, rope.native_context) == ("yarn", 16.0, 4096, 65536)


def test_dynamic_scaling_is_left_to_plans_and_said(copy: Path, tmp_path: Path) -> None:
    edit_json(copy / "config.json", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0})
    notes: list[str] = []
    found = gguf_header.read(convert(copy, tmp_path / "m.gguf", on_note=notes.append))
    assert "llama.rope.scaling.type" not in found.metadata
    assert found.metadata["llama.context_length"] == 4096
    assert "dynamic" in notes[0]


@pytest.mark.parametrize(("type", "bound"), [("f16", 2e-3), ("bf16", 2e-2), ("q8_0", 5e-2)])
def test_smaller_types_stay_near(small: Path, tmp_path: Path, type: str, bound: float) -> None:
    far, _ = worst(convert(small, tmp_path / "m.gguf", type), small, 256)
    assert 1e-7 < far < bound


def test_half_precision_checkpoints_are_copied_bit_by_bit(tmp_path: Path, tokenizer_model: Path) -> None:
    from gguf import GGUFReader
    from safetensors.numpy import load_file

    folder = write_checkpoint(tmp_path / "m", tokenizer_model=tokenizer_model, dtype="float16")
    reader = GGUFReader(convert(folder, tmp_path / "m.gguf", "f16"))
    written = {tensor.name: tensor.data for tensor in reader.tensors}
    weights = load_file(folder / "model.safetensors")
    assert (written["token_embd.weight"] == weights["model.embed_tokens.weight"]).all()
    assert (written["blk.1.ffn_down.weight"] == weights["model.layers.1.mlp.down_proj.weight"]).all()


def test_tokens_equal_sentencepiece(small: Path, tmp_path: Path, data: Path) -> None:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(small / "tokenizer.model"))
    lines = [line for file in sorted((data / "docs").rglob("*.md")) for line in file.read_text().splitlines() if line]
    lines = [*lines[:: max(1, len(lines) // 1500)], "<pad></s><s>[INST]", "", " a  b\t\n\n", "🦙\u200d\x07𠮷", "ﬁ①Ａ"]
    with native(convert(small, tmp_path / "m.gguf"), 64) as model:
        differing = [line for line in lines if model.tokenize(line) != pieces.encode(line)]
    assert len(lines) > 1000
    assert not differing


@pytest.fixture(scope="module")
def fuzzed(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(small / "tokenizer.model"))
    with native(convert(small, tmp_path_factory.mktemp("fuzz") / "m.gguf"), 64) as model:
        yield lambda text: (model.tokenize(text), pieces.encode(text))


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_tokens_of_any_text_equal_sentencepiece(fuzzed: Any, text: str) -> None:
    ours, theirs = fuzzed(text)
    assert ours == theirs


def test_special_ids_follow_the_tokenizer_not_the_config(small: Path, tmp_path: Path) -> None:
    found = gguf_header.read(convert(small, tmp_path / "m.gguf")).metadata
    names = ("bos", "eos", "unknown", "padding")
    assert [found[f"tokenizer.ggml.{name}_token_id"] for name in names] == [1, 2, 0, 32_000]
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert found["tokenizer.ggml.add_eos_token"] is False


def test_an_added_token_and_a_template_are_taken_over(tmp_path: Path, data: Path) -> None:
    """The 32,000 model with a `<pad>` and an end-of-turn token added behind it."""
    model = data / "tokenizers" / "llama2-32000.tokenizer.model"
    folder = write_checkpoint(tmp_path / "m", tokenizer_model=model, vocabulary=32_016)
    decoder = {
        "32000": {"content": "<pad>", "special": True},
        "32001": {"content": "<|im_end|>", "special": True},
        "32002": {"content": "汉字", "special": False},
    }
    edit_json(folder / "tokenizer_config.json", pad_token="<pad>", added_tokens_decoder=decoder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    edit_json(folder / "generation_config.json", eos_token_id=[2, 32001])
    file = convert(folder, tmp_path / "m.gguf")
    found = gguf_header.read(file)
    assert found.vocabulary_size == 32_016
    assert found.chat_template == "{{ messages }}"
    assert found.metadata["tokenizer.ggml.padding_token_id"] == 32_000
    assert found.metadata["tokenizer.ggml.eot_token_id"] == 32_001
    with native(file, 64) as model_:
        assert 32_002 in model_.tokenize("汉字")
        assert not {32_000, 32_001} & set(model_.tokenize("<pad><|im_end|>"))


FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def byte_level_folder(folder: Path, smollm2: Path) -> Path:
    """A checkpoint with SmolLM2's tokenizer as a `tokenizer.json`, rebuilt from its GGUF file."""
    from gguf import GGUFReader

    fields = GGUFReader(smollm2).fields
    tokens, merges = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.merges"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    table = {
        "added_tokens": [
            {"id": i, "content": token, "special": True} | dict.fromkeys(FLAGS, False)
            for i, token in enumerate(tokens)
            if types[i] == 3
        ],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": None,
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges},
    }
    write_checkpoint(folder, vocabulary=len(tokens), hidden=32, heads=2, layers=1)
    (folder / "tokenizer.json").write_text(json.dumps(table))
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ bos_token }}"}))
    return folder


def test_byte_level_bpe(tmp_path: Path, smollm2: Path, data: Path) -> None:
    folder = byte_level_folder(tmp_path / "m", smollm2)
    file = convert(folder, tmp_path / "m.gguf")
    found, original = gguf_header.read(file), gguf_header.read(smollm2)
    for key in ("model", "pre", "bos_token_id", "eos_token_id", "add_bos_token", "add_space_prefix"):
        assert found.metadata[f"tokenizer.ggml.{key}"] == original.metadata[f"tokenizer.ggml.{key}"], key
    text = (data / "docs" / "md").rglob("*.md")
    lines = [line for file in text for line in file.read_text().splitlines() if line][:300]
    with native(file, 64) as ours, native(smollm2, 64) as theirs:
        assert [ours.tokenize(line) for line in lines] == [theirs.tokenize(line) for line in lines]


def test_an_unknown_way_to_split_is_refused(tmp_path: Path, smollm2: Path) -> None:
    folder = byte_level_folder(tmp_path / "m", smollm2)
    edit_json(folder / "tokenizer.json", pre_tokenizer={"type": "Whitespace"})
    with pytest.raises(UnsupportedFeature, match="Whitespace"):
        convert(folder, tmp_path / "m.gguf")


def test_a_sentencepiece_conversion_without_its_model_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "tokenizer.model").unlink()
    (copy / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "byte_fallback": True, "vocab": {}}}))
    with pytest.raises(UnsupportedFeature, match=r"tokenizer\.model"):
        convert(copy, tmp_path / "m.gguf")
