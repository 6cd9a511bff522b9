from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from gguf_files import CHATML, Shape, write_gguf

from hanpaca.core.errors import BadModelFile, UnsupportedFeature
from hanpaca.core.gguf_header import TENSOR_TYPES, LongArray, read, read_model, rope_of
from hanpaca.core.rope import Rope


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "model.gguf", chat_template=CHATML, rope_base=50_000.0, context=2048)


def test_it_reads_what_the_gguf_package_reads(smollm2: Path) -> None:
    import gguf

    info, reader = read(smollm2), gguf.GGUFReader(smollm2)
    for name, field in reader.fields.items():
        value = info.metadata.get(name)
        if value is not None and not hasattr(value, "length"):
            assert value == field.contents(), name
    assert info.vocabulary_size == len(reader.fields["tokenizer.ggml.tokens"].data) == 49_152
    ours = [(t.name, t.type, t.offset, t.size) for t in info.tensors]
    assert ours == [(t.name, t.tensor_type.name, t.data_offset, t.n_bytes) for t in reader.tensors]


def test_the_table_of_types_is_the_gguf_packages() -> None:
    """Its releases lag behind ggml: they may lack the newest types, and had Q8_1 (which no file holds) in an old layout
    of 40 bytes."""
    import gguf

    theirs = {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert len(theirs) >= 34
    for number, entry in theirs.items():
        assert TENSOR_TYPES[number] == entry or (entry == ("Q8_1", 32, 40) and TENSOR_TYPES[number][2] == 36)


def test_the_table_of_types_is_ggmls_own() -> None:
    """The library that runs the files is the one that decides."""
    import ctypes

    import llama_cpp

    ggml = ctypes.CDLL(str(next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.*"))))
    ggml.ggml_type_size.restype, ggml.ggml_blck_size.restype = ctypes.c_size_t, ctypes.c_int64
    theirs = {kind: (ggml.ggml_blck_size(kind), ggml.ggml_type_size(kind)) for kind in TENSOR_TYPES}
    assert {kind: size for kind, (_, *size) in TENSOR_TYPES.items()} == {k: [*size] for k, size in theirs.items()}


def test_long_arrays_are_stepped_over(smollm2: Path) -> None:
    """Which is why reading takes milliseconds, whatever the vocabulary."""
    found = read(smollm2).metadata
    assert [found[f"tokenizer.ggml.{name}"] for name in ("tokens", "merges")] == [LongArray(49_152), LongArray(48_900)]


def test_what_a_file_says(model: Path) -> None:
    info = read_model(model)
    assert (info.architecture, info.vocabulary_size, info.chat_template) == ("llama", 304, CHATML)
    assert rope_of(info) == Rope(50_000.0, 16, 2048, original=2048)


@pytest.mark.parametrize(
    ("scaling", "context", "expected"),
    [
        (("linear", 4.0, 4096), 16_384, Rope(10_000.0, 16, 4096, "linear", 4.0, 4096)),
        (("yarn", 16.0, 4096), 65_536, Rope(10_000.0, 16, 4096, "yarn", 16.0, 4096)),
    ],
)
def test_scaled_windows(tmp_path: Path, scaling, context: int, expected: Rope) -> None:
    rope = rope_of(read(write_gguf(tmp_path / "m.gguf", rope_scaling=scaling, context=context)))
    assert rope == expected
    assert rope.native_context == context


def test_a_truncated_file_is_named_so_at_every_length(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [4, 5, 11, 20, 24, 60, 200, 1_000, 5_000, 9_000, 100_000, len(whole) - 40_000]:
        cut.write_bytes(whole[:length])
        with pytest.raises(BadModelFile, match="truncated or damaged"):
            read(cut)


@pytest.mark.parametrize(
    ("start", "hint"),
    [
        (b"", "empty"),
        (b"PK\x03\x04", "PyTorch"),
        (b'\x10\0\0\0\0\0\0\0{"__metadata__"', "safetensors"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"tjgg\x03\0\0\0", "before GGUF"),
        (b"hello", "catalog name"),
    ],
)
def test_what_else_a_file_may_be(tmp_path: Path, start: bytes, hint: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(start)
    with pytest.raises(BadModelFile, match=f"is not a GGUF file.*{hint}"):
        read(path)


def test_damaged_headers_do_not_hang_or_crash(model: Path, tmp_path: Path) -> None:
    """Any byte of the header may be wrong: the answer is a reading or `BadModelFile`, at once."""
    whole, bad = bytearray(model.read_bytes()), tmp_path / "bad.gguf"
    for position in range(4, 900, 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        bad.write_bytes(damaged)
        with contextlib.suppress(BadModelFile, UnsupportedFeature):
            rope_of(read(bad))


def test_versions(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(whole[:4] + struct.pack("<I", 1) + whole[8:])
    with pytest.raises(BadModelFile, match="version 1; versions 2 and 3"):
        read(other)
    other.write_bytes(whole[:4] + struct.pack(">I", 3) + whole[8:])
    with pytest.raises(BadModelFile, match="big-endian"):
        read(other)


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match="cannot be read: No such file"):
        read(tmp_path / "none.gguf")
    with pytest.raises(BadModelFile, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_adapters_and_vocabularies_are_no_models(tmp_path: Path) -> None:
    adapter = write_gguf(tmp_path / "lora.gguf", metadata={"general.type": "adapter"})
    with pytest.raises(BadModelFile, match="LoRA adapter"):
        read_model(adapter)
    empty = tmp_path / "vocab.gguf"
    empty.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    with pytest.raises(BadModelFile, match="no weights"):
        read_model(empty)


def test_split_models(model: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"big-{i:05}-of-00002.gguf" for i in (1, 2)]
    parts[0].write_bytes(model.read_bytes())
    with pytest.raises(BadModelFile, match=r"lacks parts of the model: big-00002-of-00002\.gguf"):
        read_model(parts[0])
    parts[1].write_bytes(model.read_bytes())
    assert read_model(parts[1]).path == parts[0]
    parts[1].write_bytes(model.read_bytes()[:-50_000])
    with pytest.raises(BadModelFile, match=r"big-00002-of-00002\.gguf is truncated"):
        read_model(parts[0])


def test_mixed_layers(tmp_path: Path) -> None:
    info = read(write_gguf(tmp_path / "m.gguf", shape=Shape(layers=3)))
    assert info.number("block_count", 0) == 3
    assert info.number("nothing", 7) == 7
