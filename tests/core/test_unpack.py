"""GGUF files unpacked into checkpoints: the weights against transformers' reading, the tokens against llama.cpp's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf_files import write_gguf
from native_logits import native

from hanpaca.core.engines.torch_tokenizer import open_tokenizer
from hanpaca.core.errors import UnsupportedFeature
from hanpaca.core.weights.checkpoint import Checkpoint
from hanpaca.core.weights.convert import convert
from hanpaca.core.weights.unpack import unpack

torch = pytest.importorskip("torch")


def test_smollm2_is_what_transformers_reads_from_the_file(smollm2: Path, tmp_path: Path, data: Path) -> None:
    from transformers import GgufConfig, LlamaForCausalLM

    settings: dict[str, Any] = {"gguf_file": smollm2.name, "quantization_config": GgufConfig(dequantize=True)}
    theirs: Any = LlamaForCausalLM.from_pretrained(smollm2.parent, dtype=torch.float32, **settings)
    folder = unpack(smollm2, tmp_path / "m")
    mine: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = theirs.state_dict()
    assert mine.config.tie_word_embeddings
    for name, tensor in mine.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert mine.config.rope_parameters["rope_theta"] == theirs.config.rope_parameters["rope_theta"]
    tokenizer, native_ = open_tokenizer(folder, 49_152), open_tokenizer(smollm2, 49_152)
    texts = [file.read_text(encoding="utf-8") for file in sorted((data / "docs/md").rglob("*.md"))[:6]]
    for line in [line for text in texts for line in text.splitlines() if line][:300]:
        for special in (False, True):
            assert tokenizer.tokenize(line, special=special) == native_.tokenize(line, special=special), line
    assert tokenizer.chat_template == native_.chat_template
    assert (tokenizer.vocabulary.bos, tokenizer.vocabulary.eos) == (native_.vocabulary.bos, native_.vocabulary.eos)


def test_there_and_back_is_the_same_model(tmp_path: Path, data: Path) -> None:
    """A sentencepiece vocabulary, grouped heads, linear RoPE, no tied head: GGUF, checkpoint, GGUF."""
    model = data / "tokenizers/chinese-llama2-55296.tokenizer.model"
    file = write_gguf(tmp_path / "a.gguf", tokenizer_model=model, rope_scaling=("linear", 4.0, 1024))
    folder = unpack(file, tmp_path / "m")
    back = convert(folder, tmp_path / "b.gguf", "f32")
    lines = (data / "plaintext/红楼梦.txt").read_text(encoding="utf-8").split()[:150]
    tokenizer = open_tokenizer(folder, 55_296)
    with native(file, 128) as first, native(back, 128) as second:
        for line in lines:
            ids = first.tokenize(line)
            assert second.tokenize(line) == ids == tokenizer.tokenize(line, special=False)
        tokens = list(range(100, 200))
        for a, b in zip(first.chunks(tokens), second.chunks(tokens), strict=True):
            assert (a == b).all()
    assert Checkpoint.open(folder).config["rope_parameters"]["factor"] == 4.0


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    import numpy as np

    file = write_gguf(tmp_path / "a.gguf", metadata={"general.finetune": "x"}, tensors={"x": np.zeros(4, np.float32)})
    file.write_bytes(file.read_bytes().replace(b"llama", b"lxama"))
    with pytest.raises(UnsupportedFeature, match="'lxama' model"):
        unpack(file, tmp_path / "m")
