from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint
from gguf_files import CHATML, Shape, write_gguf
from training_runs import write_base

from hanpaca.core.errors import ModelNotFound
from hanpaca.core.verify import verify


def test_a_model_of_the_catalog(smollm2: Path) -> None:
    found = verify(smollm2)
    assert found.ok
    assert found.facts["catalog"] == "smollm2 (chat)"
    assert found.facts["parameters"] == 134_515_008
    assert found.facts["shape"] == "30 layers, hidden 576, feed-forward 1536, 9 heads (3 for keys and values)"
    assert found.facts["context"] == "8,192 positions (RoPE base 100000)"
    assert found.facts["template"] == "in the model's metadata"
    assert found.facts["weights"].startswith("210 × Q4_1")
    assert found.facts["checksum"] == "none is known to compare with"


def test_what_the_vocabulary_tells(chinese_gguf: Path) -> None:
    found = verify(chinese_gguf)
    assert found.facts["vocabulary"] == "55,296 pieces: Chinese-LLaMA-2 / Alpaca-2, second generation"
    assert found.facts["template"] == "none in the files; Alpaca-2 models use llama-2"
    assert found.facts["catalog"] == "not a model of the catalog"
    assert found.ok


def test_a_name_that_promises_another_model(tmp_path: Path) -> None:
    (problem,) = verify(write_gguf(tmp_path / "chinese-alpaca-2-7b-16k.q4_k.gguf")).problems
    assert problem == "It is called like chinese-alpaca-2-7b-16k, but has another shape or vocabulary."


def test_scaled_rope_is_told(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", rope_scaling=("linear", 4.0, 4096), context=16_384, chat_template=CHATML)
    assert verify(path).facts["context"] == "16,384 positions (RoPE base 10000, linear ×4 from 4,096)"


def test_a_wrong_checksum(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    sums, right = tmp_path / "SHA256SUMS", hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(f"{right}  m.gguf\n")
    seen: list[tuple[int, int]] = []
    found = verify(path, on_progress=lambda done, total: seen.append((done, total)))
    assert found.ok and found.facts["checksum"] == "1 of 1 files right"
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    sums.write_text(f"{'0' * 64}  m.gguf\n")
    assert "is not what was downloaded" in verify(path).problems[0]
    assert verify(path, checksum=False).ok


def test_missing_layers_and_foreign_vocabularies(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(3)
    writer.add_embedding_length(8)
    writer.add_head_count(2)
    writer.add_token_list([f"t{i}" for i in range(100)])
    for layer in (0, 2):
        writer.add_tensor(f"blk.{layer}.attn_q.weight", np.zeros((8, 8), np.float32))
    writer.add_tensor("token_embd.weight", np.zeros((90, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    rows, layers = verify(tmp_path / "m.gguf").problems
    assert rows.startswith("token_embd.weight has 90 rows, but the vocabulary 100 pieces")
    assert layers == "1 of 3 layers lack tensors, the first is layer 1."


def test_odd_names_and_texts_are_no_error(tmp_path: Path, chinese_model: Path) -> None:
    extra = {"blk.x.attn_q.weight": np.zeros((4, 4), np.float32), "blk.": np.zeros(4, np.float32)}
    assert verify(write_gguf(tmp_path / "m.gguf", tensors=extra)).ok
    folder = write_checkpoint(tmp_path / "c", tokenizer_model=chinese_model)
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{")
    assert "is damaged" in verify(folder).problems[0]


def test_a_truncated_file_is_a_problem_not_an_error(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", shape=Shape(layers=1))
    path.write_bytes(path.read_bytes()[:-1000])
    assert "is truncated or damaged" in verify(path).problems[0]


def test_a_checkpoint(tmp_path: Path, chinese_model: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", tokenizer_model=chinese_model, shard="20MB")
    found = verify(folder)
    assert found.ok, found.problems
    assert found.facts["vocabulary"].startswith("55,296 pieces")
    assert found.facts["context"] == "4,096 positions (RoPE base 10000)"
    assert found.facts["catalog"] == "not a model of the catalog"
    (folder / "tokenizer.model").unlink()
    assert verify(folder).problems == ("There is no tokenizer beside the weights.",)
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    shard.unlink()
    assert f"lacks 1 of 2 weight files: {shard.name}" in verify(folder).problems[0]


def test_a_checkpoint_whose_config_is_another_models(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", vocabulary=320)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3, "vocab_size": 49_954}))
    problems = verify(folder).problems
    assert problems[0].startswith("9 weights are missing, the first is model.layers.2.")
    assert "model.embed_tokens.weight is (320, 64), but config.json makes it (49954, 64)." in problems
    assert "Chinese-Alpaca, the first generation" in problems[-1]


def test_an_adapter_may_have_rows_to_spare(tmp_path: Path) -> None:
    """As `vocab grow` makes them: 448 rows for 420 tokens."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    lora = tmp_path / "lora"
    lora.mkdir()
    shutil.copyfile(write_base(tmp_path / "b") / "tokenizer.model", lora / "tokenizer.model")
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    for rows, right in ((448, True), (419, False), (420 + 128, False)):
        name = "base_model.model.lm_head.weight"
        save_file({name: torch.zeros(rows, 32)}, lora / "adapter_model.safetensors")
        assert verify(lora).ok == right


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no file or folder"):
        verify(tmp_path / "none")
    assert "no checkpoint" in verify(tmp_path).problems[0]
