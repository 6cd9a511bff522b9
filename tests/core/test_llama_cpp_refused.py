"""What the llama.cpp engine refuses: requests, options, files, forks and pickles that native code would die of."""

import os
import pickle
from typing import Any

import gguf_files
import pytest
from llama_engines import GREEDY, generate, open_engine

from hanpaca.core.catalog import resolve
from hanpaca.core.engines.base import Request
from hanpaca.core.engines.llama_cpp import LlamaCppOptions
from hanpaca.core.engines.llama_cpp import open_engine as open_source
from hanpaca.core.errors import BadInput, BadModelFile, Busy, ContextOverflow, EngineFailure, UnsupportedFeature


def test_what_native_code_would_die_of_is_refused(tiny):
    for tokens in ([], [-1], [10**6]):
        with pytest.raises(BadInput):
            tiny.submit(Request(tokens, GREEDY), lambda event: None)
    with pytest.raises(ContextOverflow, match="1024"):
        tiny.submit(Request([1] * 1020, GREEDY), lambda event: None)
    with pytest.raises(BadInput):
        tiny.submit(Request([1], GREEDY.replace(logit_bias={10**6: 1.0})), lambda event: None)


def test_token_ids_that_are_no_whole_numbers_are_refused(tiny):
    wrong: Any
    for wrong in (float("nan"), 2.7, "3", None):
        with pytest.raises(BadInput, match="whole numbers"):
            tiny.submit(Request([1, wrong], GREEDY), lambda _: None)


def test_a_score_needs_a_prompt(tiny):
    with pytest.raises(BadInput, match="empty"):
        tiny.score([], [[5]])


def test_a_full_queue_says_busy(tiny_file):
    engine = open_engine(tiny_file, running=1, queue=2)
    handles = []
    with pytest.raises(Busy, match="waiting already"):
        for _ in range(8):
            handles.append(engine.submit(Request([1, 270], GREEDY.replace(max_tokens=900)), lambda event: None))
    engine.close()


def test_options_are_checked(smollm2):
    for options in (
        {"kv_type": "q3"},
        {"kv_type": ["q8_0"]},
        {"kv_type": "q8_0", "flash_attention": False},
        {"context": 0},
        {"threads": "2"},
    ):
        with pytest.raises(BadInput):
            LlamaCppOptions(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"tensor_split": "3,1"}, {"tensor_split": []}, {"tensor_split": [-1.0]}, {"mmap": "yes"}, {"mlock": 1},
        {"flash_attention": None}, {"context": 2**40}, {"alpha": 0.5}, {"alpha": "most"}, {"gpu_layers": 1.5},
        {"running": 1000}, {"threads": True},
    ],
)  # fmt: skip
def test_options_of_the_wrong_kind_are_refused(options):
    with pytest.raises(BadInput, match=next(iter(options))):
        LlamaCppOptions(**options)


def test_adapters_are_checked(tiny_file, tmp_path):
    source = resolve(str(tiny_file))
    with pytest.raises(BadInput, match=r"no LoRA adapter .*none\.gguf"):
        open_source(source, {"loras": str(tmp_path / "none.gguf")})
    with pytest.raises(BadInput, match="loras must be"):
        open_source(source, {"loras": 3})


def test_files_without_a_tokenizer_are_refused(tmp_path):
    import gguf

    path = gguf_files.write_gguf(tmp_path / "whole.gguf")
    header = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(tmp_path / "none.gguf", "llama")
    for name, entry in header.fields.items():
        if not name.startswith(("GGUF.", "tokenizer.", "general.architecture")):
            writer.add_key_value(name, entry.contents(), entry.types[0])
    writer.add_tokenizer_model("none")
    for tensor in header.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BadModelFile, match="tokenizer"):
        open_engine(tmp_path / "none.gguf")


def test_a_loaded_engine_is_neither_pickled_nor_used_after_a_fork(tiny):
    with pytest.raises(EngineFailure, match="pickled"):
        pickle.dumps(tiny)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            generate(tiny, [1, 270])
            os.write(writer, b"worked")
        except EngineFailure as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    assert b"forked" in os.read(reader, 1000)
    os.waitpid(child, 0)
    os.close(reader)


def test_a_base_model_does_not_embed(long_smol):
    with pytest.raises(UnsupportedFeature, match="not an embedding model"):
        long_smol.embed([[1, 2, 3]])
