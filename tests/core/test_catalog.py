from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gguf_files import Shape, write_gguf

from hanpaca.core import catalog
from hanpaca.core.catalog import entries, entry, published_type, resolve
from hanpaca.core.errors import BadInput, BadModelFile, ModelNotFound, UnsupportedFeature


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HANPACA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


def test_every_published_model_is_there() -> None:
    names = {e.name for e in entries()}
    for family in ("llama", "alpaca"):
        sizes = ["1.3b", "7b", "13b", "7b-16k", "13b-16k", "7b-64k"]
        assert {f"chinese-{family}-2-{size}" for size in sizes} <= names
    assert {"chinese-alpaca-2-1.3b-rlhf", "chinese-alpaca-2-7b-rlhf", "smollm2"} <= names
    assert len(entries()) == len(names) == 16


def test_what_was_published() -> None:
    chat = entry("Chinese-Alpaca-2-7B")
    assert (chat.kind, chat.template, chat.vocabulary, chat.native_context) == ("chat", "llama-2", 55_296, 4096)
    assert (chat.full, chat.gguf) == ("hfl/chinese-alpaca-2-7b", "hfl/chinese-alpaca-2-7b-gguf")
    assert (chat.lora, chat.lora_base) == ("hfl/chinese-alpaca-2-lora-7b", "meta-llama/Llama-2-7b-hf")
    assert entry("chinese-llama-2-13b").kind == "base" and entry("chinese-llama-2-13b").template is None
    assert entry("chinese-alpaca-2-13b-16k").native_context == 16_384
    assert entry("chinese-llama-2-7b-64k").rope.scaling == "yarn"
    assert entry("chinese-alpaca-2-1.3b").lora is None


def test_sizes_follow_from_shapes() -> None:
    """2 bytes a weight: the published sizes of the F16 models."""
    assert entry("chinese-alpaca-2-7b").parameters * 2 == pytest.approx(12.9 * 2**30, rel=0.01)
    assert entry("chinese-alpaca-2-13b").parameters * 2 == pytest.approx(24.7 * 2**30, rel=0.01)
    assert entry("chinese-alpaca-2-1.3b").parameters * 2 == pytest.approx(2_526_352_160, rel=0.001)
    assert entry("smollm2").parameters == 134_515_008


@pytest.mark.parametrize(
    ("asked", "published"),
    [
        ("Q4_K_M", "q4_k"),
        ("q4_k", "q4_k"),
        ("Q4_K", "q4_k"),
        ("fp16", "f16"),
        ("q4_k-im", "q4_k-im"),
        ("Q5_K_M-im", "q5_k-im"),
    ],
)
def test_both_spellings_of_a_quantization(asked: str, published: str) -> None:
    assert published_type(entry("chinese-alpaca-2-7b"), asked) == published


def test_an_unknown_quantization_lists_the_published() -> None:
    with pytest.raises(BadInput, match=r"'q9' is not a published.*q2_k, q3_k, q4_0.*hanpaca quantize"):
        resolve("chinese-alpaca-2-7b:q9")


def test_an_unknown_name_lists_near_ones() -> None:
    with pytest.raises(ModelNotFound, match=r"Near names: chinese-alpaca-2-7b,"):
        resolve("chinese-alpacca-2-7b")
    with pytest.raises(ModelNotFound, match=r"The catalog has: chinese-llama-2-1\.3b,"):
        resolve("gpt")


def test_nothing_is_downloaded(cache: Path) -> None:
    with pytest.raises(ModelNotFound, match="hanpaca pull chinese-alpaca-2-7b:Q4_K_M"):
        resolve("chinese-alpaca-2-7b:Q4_K_M")
    with pytest.raises(ModelNotFound, match="hanpaca pull someone/something"):
        resolve("someone/something")
    assert not cache.exists()


def test_the_packaged_model(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = resolve("smollm2")
    assert (source.engine, source.path, source.entry) == ("llama_cpp", smollm2.resolve(), entry("smollm2"))
    assert resolve("SmolLM2:Q4_1").path == source.path
    with pytest.raises(BadInput, match="one quantization only"):
        resolve("smollm2:q8_0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelNotFound, match=r"pip install \"hanpaca\[demo\]\""):
        resolve("smollm2")


def test_the_reader_is_the_packaged_model_with_an_adapter(smollm2: Path) -> None:
    source, base, reader = resolve("smollm2-reader"), entry("smollm2"), entry("smollm2-reader")
    (adapter,) = source.loras
    assert source.path == smollm2.resolve() and adapter.is_file() and adapter.stat().st_size < 40e6
    assert (reader.over, reader.reads, reader.languages) == ("smollm2", True, ("zh", "en"))
    assert (reader.shape, reader.rope, reader.package) == (base.shape, base.rope, base.package)
    assert not any(known.reads for known in entries() if known is not reader)
    assert resolve(str(smollm2)).entry == base, "a file by itself has no adapter"


def test_a_gguf_path(tmp_path: Path, smollm2: Path) -> None:
    path = write_gguf(tmp_path / "chinese-alpaca-2-7b.gguf")
    source = resolve(path)
    assert (source.engine, source.path) == ("llama_cpp", path)
    assert source.entry is None, "its shape is not that model's"
    assert resolve(str(smollm2)).entry == entry("smollm2")


def test_paths_that_are_no_models(tmp_path: Path) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("hello")
    with pytest.raises(BadModelFile, match="is not a GGUF file"):
        resolve(text)
    with pytest.raises(ModelNotFound, match="no file or folder"):
        resolve(str(tmp_path / "none.gguf"))
    text.unlink()
    with pytest.raises(BadModelFile, match="holds no model"):
        resolve(tmp_path)


def test_folders(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    one = write_gguf(folder / "a.gguf")
    assert resolve(folder).path == one
    write_gguf(folder / "b.gguf")
    with pytest.raises(ModelNotFound, match=r"holds 2 GGUF files\. Name one: .*a\.gguf, .*b\.gguf"):
        resolve(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(BadModelFile, match="LoRA adapter"):
        resolve(folder)


def test_a_checkpoint_folder_is_recognised_by_name_and_shape(tmp_path: Path) -> None:
    folder = tmp_path / "chinese-alpaca-2-7b-16k"
    folder.mkdir()
    config = {"vocab_size": 55_296, "num_hidden_layers": 32, "hidden_size": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    source = resolve(folder)
    assert (source.engine, source.path, source.entry) == ("transformers", folder, entry("chinese-alpaca-2-7b-16k"))
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 32_000}))
    assert resolve(folder).entry is None
    (folder / "config.json").write_text("{")
    with pytest.raises(BadModelFile, match="cannot be read"):
        resolve(folder)


def test_pulled_models_are_found(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cache / "hfl--chinese-alpaca-2-7b-gguf"
    folder.mkdir(parents=True)
    small = write_gguf(folder / "ggml-model-q4_k.gguf")
    large = write_gguf(folder / "ggml-model-q8_0.gguf", shape=Shape(layers=4))
    assert resolve("chinese-alpaca-2-7b:Q4_K_M").path == small
    assert resolve("hfl/chinese-alpaca-2-7b-gguf:q8_0").path == large
    assert resolve("chinese-alpaca-2-7b").path == large
    assert resolve("chinese-alpaca-2-7b").entry == entry("chinese-alpaca-2-7b")
    monkeypatch.setattr("hanpaca.core.cache.available", lambda: 200 * 2**20)
    assert resolve("chinese-alpaca-2-7b").path == small, "the smallest, where none fits"


def test_a_pulled_checkpoint_is_found(cache: Path) -> None:
    folder = cache / "hfl--chinese-alpaca-2-7b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(ModelNotFound, match="hanpaca pull"):  # the download was interrupted
        resolve("chinese-alpaca-2-7b")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"")
    assert resolve("chinese-alpaca-2-7b").engine == "transformers"
    assert resolve("hfl/chinese-alpaca-2-7b").path == folder


def test_what_other_tools_left_in_the_hubs_cache_is_found(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub/models--hfl--chinese-alpaca-2-7b-gguf/snapshots/abc"
    snapshot.mkdir(parents=True)
    path = write_gguf(snapshot / "ggml-model-q4_k.gguf")
    assert resolve("chinese-alpaca-2-7b:Q4_K_M").path == path
    assert resolve("hfl/chinese-alpaca-2-7b-gguf").entry == entry("chinese-alpaca-2-7b")
    checkpoint = tmp_path / "hub/models--org--model/snapshots/abc"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")  # what other tools fetch first, and sometimes only
    with pytest.raises(ModelNotFound, match="hanpaca pull"):
        resolve("org/model")
    (checkpoint / "pytorch_model.bin").write_bytes(b"")
    assert (resolve("org/model").engine, resolve("org/model").path) == ("transformers", checkpoint)


def test_the_nearest_name_on_the_path_counts() -> None:
    seven = {"vocabulary": 55_296, "layers": 32, "hidden": 4096}
    names = {
        "/m/chinese-alpaca-2-7b/chinese-llama-2-7b.q4_k.gguf": "chinese-llama-2-7b",
        "/m/chinese-alpaca-2-7b-16k-gguf/ggml-model-q4_k.gguf": "chinese-alpaca-2-7b-16k",
        "/m/models--hfl--chinese-alpaca-2-7b-rlhf-gguf/snapshots/abc/ggml-model-f16.gguf": "chinese-alpaca-2-7b-rlhf",
    }
    for path, name in names.items():
        assert catalog.entry_of_file(Path(path), **seven) == entry(name)
    assert catalog.entry_of_file(Path("/m/other.gguf"), **seven) is None


def test_the_rope_of_any_model(tmp_path: Path, smollm2: Path) -> None:
    assert catalog.rope_for("chinese-alpaca-2-7b-64k:q4_k") == entry("chinese-alpaca-2-7b-64k").rope
    assert catalog.rope_for(smollm2) == entry("smollm2").rope
    assert catalog.rope_for(write_gguf(tmp_path / "m.gguf", rope_base=77.0)).base == 77.0
    sizes = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 8}
    config = sizes | {"model_type": "llama", "vocab_size": 9, "rope_theta": 5e5, "max_position_embeddings": 512}
    (tmp_path / "c").mkdir()
    (tmp_path / "c/config.json").write_text(json.dumps(config))
    assert (catalog.rope_for(tmp_path / "c").base, catalog.rope_for(tmp_path / "c").native_context) == (5e5, 512)
    with pytest.raises(UnsupportedFeature, match="server's model"):
        catalog.rope_for("http://host/v1#m")


def test_servers() -> None:
    source = resolve("http://host:8000/v1#hfl/chinese-alpaca-2-7b")
    assert (source.engine, source.url, source.remote_name) == (
        "remote",
        "http://host:8000/v1",
        "hfl/chinese-alpaca-2-7b",
    )
    assert source.entry == entry("chinese-alpaca-2-7b")
    assert resolve("https://host/v1/").url == "https://host/v1"
    assert resolve("https://host/v1").remote_name is None


def test_the_catalog_is_light() -> None:
    """Listing models loads neither engines nor hub clients, and takes no time worth mentioning."""
    code = (
        "import sys, time; from hanpaca.core import catalog; t = time.perf_counter(); catalog.entries();"
        "print(time.perf_counter() - t); heavy = {'torch', 'llama_cpp', 'transformers', 'huggingface_hub', 'numpy'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 0.1


def test_resolving_a_file_is_fast(smollm2: Path) -> None:
    catalog.entries()
    start = time.perf_counter()
    resolve(smollm2)
    assert time.perf_counter() - start < 0.2
