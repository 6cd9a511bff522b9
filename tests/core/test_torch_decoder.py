"""The PyTorch forward pass: equal to transformers', to itself in other pieces, and to llama.cpp beyond the window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint
from native_logits import distance, native

from hanpaca.core.engines.torch_decoder import TorchDecoder
from hanpaca.core.engines.torch_hardware import Hardware, choose, detect
from hanpaca.core.engines.torch_model import Loaded, load
from hanpaca.core.errors import BadInput, EngineFailure
from hanpaca.core.rope import Rope, plan
from hanpaca.core.weights.convert import convert

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

NATIVE = 128
VOCABULARY = 500


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("decoder") / "m", vocabulary=VOCABULARY, context=NATIVE)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    return load(folder, device="cpu", dtype="float32", quantization=None, loras=())


@pytest.fixture(scope="module")
def text() -> list[int]:
    return np.random.default_rng(3).integers(3, VOCABULARY, 350).tolist()


def feed(decoder: TorchDecoder, tokens: list[int], *, sequence: int = 0, start: int = 0) -> np.ndarray:
    """Logits of each token of one pass."""
    count = len(tokens)
    decoder.decode(tokens, range(start, start + count), [sequence] * count, [True] * count)
    return np.stack([decoder.logits(row) for row in range(count)])


def whole(loaded: Loaded, context: int, tokens: list[int], masked: bool = True) -> np.ndarray:
    """Logits of one prefill, in chunks of the decoder's size."""
    decoder = TorchDecoder(loaded.shell(plan(loaded.rope, context)), cells=1024, sequences=4, masked=masked)
    return np.concatenate([feed(decoder, tokens[at : at + 512], start=at) for at in range(0, len(tokens), 512)])


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "gather"])
def test_equals_transformers(loaded: Loaded, folder: Path, text: list[int], masked: bool) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        expected = model(torch.tensor([text[:NATIVE]])).logits[0].numpy()
    assert distance(whole(loaded, NATIVE, text[:NATIVE], masked), expected) <= 1e-5


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "gather"])
def test_token_by_token_equals_one_prefill_beyond_the_window(loaded: Loaded, text: list[int], masked: bool) -> None:
    """The plan is settled before the first token, so cached keys stay valid. Dynamic scaling fails this."""
    shell = loaded.shell(plan(loaded.rope, 384))
    decoder = TorchDecoder(shell, cells=1024, sequences=1, masked=masked)
    single = np.concatenate([feed(decoder, [token], start=at) for at, token in enumerate(text)])
    together = whole(loaded, 384, text, masked)
    assert distance(single, together) <= 1e-5
    assert (single.argmax(1) == together.argmax(1)).all()


@pytest.mark.parametrize("context", [NATIVE, 384, 600])
def test_equals_llama_cpp_with_the_same_plan(
    loaded: Loaded, tmp_path: Path, data: Path, text: list[int], context: int
) -> None:
    model = data / "tokenizers" / "llama2-32000.tokenizer.model"
    folder = write_checkpoint(tmp_path / "m", tokenizer_model=model, vocabulary=32_000, context=NATIVE)
    mine = load(folder, device="cpu", dtype="float32", quantization=None, loras=())
    tokens = text[: min(context, len(text))]
    chosen = plan(mine.rope, context)
    with native(convert(folder, tmp_path / "m.gguf", "f32"), 1280, **chosen.llama_cpp()) as reference:
        expected = np.concatenate(list(reference.chunks(tokens)))
    found = whole(mine, context, tokens)
    assert distance(found, expected) <= 1e-5
    assert (found.argmax(1) == expected.argmax(1)).all()


def test_shells_share_weights_and_differ_in_frequencies(loaded: Loaded) -> None:
    short, long = (loaded.shell(plan(loaded.rope, context)) for context in (NATIVE, 384))
    assert short is loaded.shell(plan(loaded.rope, NATIVE))
    pairs = list(zip(short.parameters(), long.parameters(), strict=True))
    assert all(a is b for a, b in pairs)
    chosen = plan(loaded.rope, 384)
    np.testing.assert_allclose(long.model.rotary_emb.inv_freq.numpy(), chosen.inv_freq(), rtol=1e-6)
    np.testing.assert_allclose(
        loaded.model.model.rotary_emb.inv_freq.numpy(), plan(loaded.rope, NATIVE).inv_freq(), rtol=1e-6
    )


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "gather"])
@pytest.mark.parametrize("seed", range(3))
def test_any_mixture_of_sequences_equals_each_alone(loaded: Loaded, seed: int, masked: bool) -> None:
    """Random passes over four sequences that are extended, copied and trimmed."""
    rng = np.random.default_rng(seed)
    shell = loaded.shell(plan(loaded.rope, NATIVE))
    decoder = TorchDecoder(shell, cells=400, sequences=4, masked=masked)
    known: dict[int, list[int]] = {}
    for _ in range(8):
        action = rng.integers(4)
        if action == 0 and known:
            sequence = int(rng.choice(list(known)))
            length = int(rng.integers(0, len(known[sequence])))
            decoder.trim(sequence, length)
            known[sequence] = known[sequence][:length]
            if not length:
                del known[sequence]
        elif action == 1 and known and len(known) < 4:
            source = int(rng.choice(list(known)))
            target = next(id for id in range(4) if id not in known)
            length = int(rng.integers(1, len(known[source]) + 1))
            decoder.copy(source, target, length)
            known[target] = known[source][:length]
        chosen = rng.permutation(4)[: rng.integers(1, 5)].tolist()
        tokens: list[int] = []
        positions: list[int] = []
        ids: list[int] = []
        outputs: list[bool] = []
        for sequence in chosen:
            before = known.get(sequence, [])
            fresh = rng.integers(3, VOCABULARY, rng.integers(1, 9)).tolist()
            tokens += fresh
            positions += range(len(before), len(before) + len(fresh))
            ids += [sequence] * len(fresh)
            outputs += [False] * (len(fresh) - 1) + [True]
            known[sequence] = before + fresh
        decoder.decode(tokens, positions, ids, outputs)
        for sequence in chosen:
            row = max(row for row, id in enumerate(ids) if id == sequence)
            assert distance(decoder.logits(row), whole(loaded, NATIVE, known[sequence])[-1]) <= 1e-5


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "gather"])
def test_a_sequence_put_away_and_back_goes_on_as_before(loaded: Loaded, text: list[int], masked: bool) -> None:
    decoder = TorchDecoder(loaded.shell(plan(loaded.rope, NATIVE)), cells=128, sequences=2, masked=masked)
    feed(decoder, text[:40], sequence=0)
    feed(decoder, text[50:60], sequence=1)
    pieces = [decoder.save(0, 0, 25), decoder.save(0, 25, 40)]
    assert decoder.saved_size(0) == sum(tensor.nbytes for piece in pieces for layer in piece for tensor in layer)
    decoder.trim(0, 0)
    feed(decoder, text[60:80], sequence=1, start=10)  # takes some of the cells that were freed
    assert decoder.restore(0, pieces)
    found = feed(decoder, text[40:45], sequence=0, start=40)
    assert distance(found, whole(loaded, NATIVE, text[:45])[40:]) <= 1e-5


def test_logits_exist_where_they_were_asked_for(loaded: Loaded) -> None:
    decoder = TorchDecoder(loaded.shell(plan(loaded.rope, NATIVE)), cells=64, sequences=1)
    decoder.decode([5, 6, 7], [0, 1, 2], [0, 0, 0], [False, True, False])
    assert decoder.logits(1).shape == (VOCABULARY,)
    with pytest.raises(EngineFailure):
        decoder.logits(2)
    decoder.decode([5], [3], [0], [False])
    with pytest.raises(EngineFailure):
        decoder.logits(0)


# -- the choice for the hardware ---------------------------------------------------------------------------------

BILLION = 10**9


@pytest.mark.parametrize(
    ("hardware", "dtype", "expected"),
    [
        (Hardware("cpu", free_memory=32 * BILLION), "auto", ("float32", "sdpa")),
        (Hardware("cpu", free_memory=20 * BILLION), "auto", ("bfloat16", "sdpa")),
        (Hardware("cpu", free_memory=20 * BILLION), "float32", ("float32", "sdpa")),
        (Hardware("cuda", (8, 0), True), "auto", ("bfloat16", "flash_attention_2")),
        (Hardware("cuda:1", (9, 0), True), "auto", ("bfloat16", "flash_attention_2")),
        (Hardware("cuda", (8, 6), True), "float16", ("float16", "flash_attention_2")),
        (Hardware("cuda", (8, 6), False), "auto", ("bfloat16", "sdpa")),
        (Hardware("cuda", (8, 6), True), "float32", ("float32", "sdpa")),
        (Hardware("cuda", (7, 5), True), "auto", ("float16", "sdpa")),
        (Hardware("mps"), "auto", ("float16", "sdpa")),
    ],
    ids=lambda value: str(value),
)
def test_choice(hardware: Hardware, dtype: str, expected: tuple[str, str]) -> None:
    assert choose(hardware, dtype, 5 * BILLION) == expected


def test_a_missing_device_is_refused_with_the_ones_there() -> None:
    assert detect("auto").device in ("cuda", "mps", "cpu")
    with pytest.raises(BadInput, match=r"auto, .*cpu"):
        detect("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="no device 'cuda:3'"):
            detect("cuda:3")


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 64},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_long_context_models_run_by_their_own_scaling(tmp_path: Path, text: list[int], rope: dict[str, Any]) -> None:
    from transformers import LlamaForCausalLM

    folder = write_checkpoint(tmp_path / "m", vocabulary=VOCABULARY, context=1024, rope=rope)
    mine = load(folder, device="cpu", dtype="float32", quantization=None, loras=())
    assert mine.rope.native_context == 1024
    with torch.inference_mode():
        expected = LlamaForCausalLM.from_pretrained(folder)(torch.tensor([text])).logits[0].numpy()
    assert distance(whole(mine, 1024, text), expected) <= 1e-5


PUBLISHED = {
    "pi-16k": ({"rope_type": "linear", "factor": 4.0}, 16_384),
    "yarn-64k": ({"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096}, 65_536),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_both_engines_agree_beyond_4096_positions(tmp_path: Path, data: Path, name: str) -> None:
    """The RoPE of the published long-context models at the positions that it is for."""
    rope, window = PUBLISHED[name]
    model = data / "tokenizers" / "llama2-32000.tokenizer.model"
    folder = write_checkpoint(
        tmp_path / "m", tokenizer_model=model, vocabulary=32_000, context=window, rope=rope, heads=2, spread=0.04
    )
    mine = load(folder, device="cpu", dtype="float32", quantization=None, loras=())
    assert mine.rope.native_context == window
    tokens = np.random.default_rng(5).integers(3, 32_000, 5120).tolist()
    plain = Rope(dim=mine.rope.dim, trained=window)
    decoders = [TorchDecoder(mine.shell(plan(rope, window)), cells=5120, sequences=1) for rope in (mine.rope, plain)]
    with native(convert(folder, tmp_path / "m.gguf", "f32"), 5120) as reference:
        for at, expected in zip(range(0, 5120, 512), reference.chunks(tokens), strict=True):
            found, other = (feed(decoder, tokens[at : at + 512], start=at) for decoder in decoders)
            assert distance(found, expected) <= 1e-5, at
            assert (found.argmax(1) == expected.argmax(1)).all(), at
            assert distance(other, expected) > 1e-3, "the comparison does not see the scaling"


def test_llama3s_table_in_a_gguf_is_used(tmp_path: Path, data: Path, text: list[int]) -> None:
    """transformers itself leaves `rope_freqs.weight` out."""
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = data / "tokenizers" / "llama2-32000.tokenizer.model"
    folder = write_checkpoint(
        tmp_path / "m",
        tokenizer_model=model,
        vocabulary=32_000,
        context=1024,
        rope=rope | {"original_max_position_embeddings": 64},
    )
    file = convert(folder, tmp_path / "m.gguf", "f32")
    ours, theirs = (load(path, device="cpu", dtype="float32", quantization=None, loras=()) for path in (file, folder))
    assert ours.rope == theirs.rope
    assert distance(whole(ours, 1024, text), whole(theirs, 1024, text)) <= 1e-5
    with native(file, 1024) as reference:
        expected = np.concatenate(list(reference.chunks(text)))
    assert distance(whole(ours, 1024, text), expected) <= 1e-5
