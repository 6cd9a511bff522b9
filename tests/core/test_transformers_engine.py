"""The PyTorch engine on small checkpoints with random weights, and on SmolLM2 read from its GGUF file."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import edit_json, write_checkpoint, write_tokenizer

from hanpaca.core.catalog import ModelSource
from hanpaca.core.engines import open_engine, streams
from hanpaca.core.engines.base import Completion, Delta, Engine, Request
from hanpaca.core.engines.llama_cpp import LlamaCppEngine, LlamaCppOptions
from hanpaca.core.engines.torch_decoder import TorchDecoder
from hanpaca.core.engines.torch_model import load as load_engine
from hanpaca.core.engines.transformers import TransformersEngine, TransformersOptions
from hanpaca.core.errors import (
    BadInput,
    BadModelFile,
    Busy,
    Closed,
    ContextOverflow,
    EngineFailure,
    TimedOut,
    UnsupportedFeature,
)
from hanpaca.core.gguf_header import read, rope_of
from hanpaca.core.sampling import Sampling
from hanpaca.core.weights.convert import convert
from hanpaca.core.weights.merge import merge

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

GREEDY = Sampling(max_tokens=24, temperature=0, repetition_penalty=1.0)
CPU = TransformersOptions(device="cpu", dtype="float32")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A native window of 256, the real 55,296-piece tokenizer."""
    model = data / "tokenizers" / "chinese-llama2-55296.tokenizer.model"
    path = tmp_path_factory.mktemp("engine") / "model"
    return write_checkpoint(
        path, tokenizer_model=model, hidden=32, ffn=64, heads=2, kv_heads=1, context=256, spread=0.3
    )


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[TransformersEngine]:
    opened = TransformersEngine(folder, TransformersOptions(device="cpu", dtype="float32", context=700))
    yield opened
    opened.close()


def generate(engine: Engine, *prompts: list[int], sampling: Sampling = GREEDY) -> list[Completion]:
    return streams.complete(engine, [Request(prompt, sampling) for prompt in prompts])


def random_prompts(count: int, longest: int = 60, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[1, *rng.integers(3, 55_000, rng.integers(1, longest)).tolist()] for _ in range(count)]


# -- answers -----------------------------------------------------------------------------------------------------


def test_greedy_answers_equal_transformers_own(engine: TransformersEngine, folder: Path) -> None:
    from transformers import LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt in random_prompts(3):
        settings = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": 2, "pad_token_id": 2}
        expected = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **settings)
        ids = expected[0, len(prompt) :].tolist()
        text = b"".join(engine.token_bytes(token) for token in ids).decode("utf-8", "replace")
        (found,) = generate(engine, prompt)
        assert found.text == text
        assert found.usage.completion_tokens == len(ids)


def test_answers_are_the_same_alone_and_in_a_batch(engine: TransformersEngine, folder: Path) -> None:
    prompts = random_prompts(8)
    prompts += [[*prompts[0][:10], 5, 6, 7], [*prompts[1], 9], prompts[2]]  # shared prefixes too
    alone = [generate(engine, prompt)[0].text for prompt in prompts]
    assert [answer.text for answer in generate(engine, *prompts)] == alone


def test_the_same_model_as_gguf_answers_the_same_in_both_engines(
    engine: TransformersEngine, folder: Path, tmp_path: Path
) -> None:
    file = convert(folder, tmp_path / "m.gguf", "f32")
    options = LlamaCppOptions(kv_type="f32", flash_attention=False, threads=1, context=700)
    native = LlamaCppEngine(file, rope_of(read(file)), options)
    packed = TransformersEngine(file, CPU)
    prompts = [*random_prompts(4), random_prompts(1, 2, seed=5)[0] * 150]  # the last one is beyond the native window
    try:
        expected = generate(native, *prompts)
        assert [answer.text for answer in generate(engine, *prompts)] == [answer.text for answer in expected]
        assert [answer.usage.prompt_tokens for answer in expected] == [len(prompt) for prompt in prompts]
        assert generate(packed, prompts[0])[0].text == expected[0].text
        assert packed.vocabulary == native.vocabulary == engine.vocabulary
        scores = [one.score([1, 500], [[600, 700], [800]]) for one in (native, engine, packed)]
        for other in scores[1:]:
            for mine, theirs in zip(other, scores[0], strict=True):
                assert mine == pytest.approx(theirs, abs=1e-3)
    finally:
        native.close()
        packed.close()


def test_streaming_gives_the_same_text_and_one_last_delta(engine: TransformersEngine) -> None:
    (prompt,) = random_prompts(1)
    deltas = list(streams.stream(engine, Request(prompt, GREEDY)))
    (whole,) = generate(engine, prompt)
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == whole.finish_reason == "length"
    assert deltas[-1].usage is not None
    assert (deltas[-1].usage.prompt_tokens, deltas[-1].usage.completion_tokens) == (len(prompt), 24)
    assert len(deltas) > 5


async def test_async_answers_are_the_same(engine: TransformersEngine) -> None:
    prompts = random_prompts(3)
    found = await streams.acomplete(engine, [Request(prompt, GREEDY) for prompt in prompts])
    assert [answer.text for answer in found] == [answer.text for answer in generate(engine, *prompts)]


def test_a_stop_string_never_shows(engine: TransformersEngine) -> None:
    (prompt,) = random_prompts(1)
    (whole,) = generate(engine, prompt)
    stop = whole.text[8:12]
    (found,) = generate(engine, prompt, sampling=GREEDY.replace(stop=(stop,)))
    assert found.text == whole.text[: whole.text.index(stop)]
    assert found.finish_reason == "stop"


def test_an_end_token_ends_the_answer(engine: TransformersEngine) -> None:
    (found,) = generate(engine, random_prompts(1)[0], sampling=GREEDY.replace(logit_bias={2: 1e6}))
    assert (found.text, found.finish_reason, found.usage.completion_tokens) == ("", "stop", 1)


def test_seeds_reproduce_and_differ(engine: TransformersEngine) -> None:
    (prompt,) = random_prompts(1)
    warm = Sampling(max_tokens=12, temperature=2.0, top_k=0, top_p=1.0)
    texts = [generate(engine, prompt, sampling=warm.replace(seed=seed))[0].text for seed in (1, 1, 2, None, None)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4


def test_logprobs_agree_with_score(engine: TransformersEngine) -> None:
    (prompt,) = random_prompts(1)
    (found,) = generate(engine, prompt, sampling=GREEDY.replace(logprobs=3))
    tokens = [entry.token for entry in found.logprobs]
    assert len(tokens) == 24
    assert [entry.logprob for entry in found.logprobs] == pytest.approx(engine.score(prompt, [tokens])[0], abs=1e-4)
    assert all(entry.top[0][0] == entry.token and len(entry.top) == 3 for entry in found.logprobs)
    assert all(first >= second for entry in found.logprobs for (_, _, first), (_, _, second) in pairwise(entry.top))


def test_score_equals_transformers(engine: TransformersEngine, folder: Path) -> None:
    from transformers import LlamaForCausalLM

    prompt, *continuations = random_prompts(4)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = engine.score(prompt, [*continuations, []])
    assert found[-1] == []
    for tokens, scores in zip(continuations, found, strict=False):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected = logits[torch.arange(len(tokens)), torch.tensor(tokens)].tolist()
        assert scores == pytest.approx(expected, abs=1e-4)


def test_a_long_request_uses_its_own_plan_and_a_short_one_stays_untouched(
    engine: TransformersEngine, folder: Path
) -> None:
    """A chat that crosses the native window pays one prefill; what it says before is that of the bare model."""
    short = TransformersEngine(folder, CPU)
    (prompt,) = random_prompts(1)
    assert generate(engine, prompt)[0].text == generate(short, prompt)[0].text
    with pytest.raises(ContextOverflow, match="context of 256"):
        generate(short, prompt * 20)
    short.close()
    wide = streams.complete(engine, [Request(prompt, GREEDY, context=600)])[0]
    assert wide.text != generate(engine, prompt)[0].text


def test_shared_prefixes_are_computed_once(engine: TransformersEngine) -> None:
    (prompt,) = random_prompts(1, longest=60, seed=11)
    prompt = prompt * 3
    generate(engine, prompt)
    (again,) = generate(engine, [*prompt, 77])
    assert again.usage.cached_tokens >= len(prompt) - 1


# -- tokens ------------------------------------------------------------------------------------------------------


def test_tokens_are_sentencepieces(engine: TransformersEngine, folder: Path, data: Path) -> None:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    lines = [line for file in sorted((data / "docs").rglob("*.md")) for line in file.read_text().splitlines()]
    lines = [*lines[:: max(1, len(lines) // 1000)], "</s><pad> [INST]", "", "🦙\u200d𠮷\t\n"]
    assert [engine.tokenize(line) for line in lines] == [pieces.encode(line) for line in lines]


def test_control_tokens_arise_only_where_they_are_asked_for(engine: TransformersEngine) -> None:
    text = "<s>[INST] 你好 [/INST]</s><pad>"
    assert not {0, 1, 2, 32_000} & set(engine.tokenize(text))
    special = engine.tokenize(text, special=True)
    assert (special[0], special[-2:]) == (1, [2, 32_000])
    assert engine.vocabulary.bos == 1
    assert engine.vocabulary.ends == {2}
    assert engine.vocabulary.add_bos


def test_bytes_of_tokens_make_the_text_again(engine: TransformersEngine) -> None:
    text = "你好，world! 🦙 縈 \x01"
    shown = b"".join(engine.token_bytes(token) for token in engine.tokenize(text)).decode()
    assert shown == " " + text
    assert [engine.token_bytes(token) for token in (1, 2, 32_000)] == [b"", b"", b""]


def test_byte_level_tokens_equal_llama_cpps(tmp_path: Path, smollm2: Path, data: Path) -> None:
    from test_convert import byte_level_folder

    opened = TransformersEngine(byte_level_folder(tmp_path / "m", smollm2), CPU)
    native = LlamaCppEngine(smollm2, rope_of(read(smollm2)), LlamaCppOptions(threads=1, context=64))
    try:
        for file in sorted((data / "docs" / "md").rglob("*.md"))[:3]:
            text = file.read_text()[:3000] + "<|im_end|>"
            tokens = opened.tokenize(text)
            assert tokens == native.tokenize(text)
            assert b"".join(map(opened.token_bytes, tokens)) == b"".join(map(native.token_bytes, tokens))
        chat = "<|im_start|>user\n你好<|im_end|>"
        assert opened.tokenize(chat, special=True) == native.tokenize(chat, special=True)
        assert opened.vocabulary.ends <= native.vocabulary.ends
        assert opened.chat_template == "{{ bos_token }}"
    finally:
        opened.close()
        native.close()


# -- SmolLM2 -----------------------------------------------------------------------------------------------------


def test_smollm2_perplexity_is_the_same_in_both_engines(smollm2: Path, data: Path) -> None:
    text = next(iter(sorted((data / "plaintext").glob("*en*.txt")))).read_text(encoding="utf-8")[20_000:23_000]
    native = LlamaCppEngine(smollm2, rope_of(read(smollm2)), LlamaCppOptions(threads=1, context=1024))
    mine = TransformersEngine(smollm2, TransformersOptions(device="cpu", dtype="float32", context=1024))
    try:
        tokens = native.tokenize(text)[:300]
        assert mine.tokenize(text)[:300] == tokens
        perplexities = [float(np.exp(-np.mean(one.score(tokens[:1], [tokens[1:]])[0]))) for one in (native, mine)]
        assert perplexities[0] < 60
        assert perplexities[1] == pytest.approx(perplexities[0], rel=0.01)
        question = native.tokenize(
            "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n", special=True
        )
        assert "Paris" in generate(mine, question)[0].text
    finally:
        native.close()
        mine.close()


# -- adapters and bitsandbytes -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_beside_the_weights_equal_the_merged_model(tmp_path: Path, data: Path) -> None:
    from safetensors.torch import load_file, save_file
    from test_merge import load, write_lora

    tokenizers = data / "tokenizers"
    base = write_checkpoint(
        tmp_path / "base",
        tokenizer_model=tokenizers / "llama2-32000.tokenizer.model",
        vocabulary=32_000,
        hidden=32,
        heads=2,
    )
    one, two = tmp_path / "one", tmp_path / "two"
    chinese = tokenizers / "chinese-llama2-55296.tokenizer.model"
    larger = write_lora(one, load(base), rows=55_296, modules_to_save=["embed_tokens", "lm_head"])
    write_tokenizer(one, chinese, pad=True)
    write_lora(two, larger)
    file = two / "adapter_model.safetensors"  # PEFT adds an embedding whose size it does not know; it is unchanged
    save_file({name: tensor for name, tensor in load_file(file).items() if "lora_" in name}, file)
    merged = TransformersEngine(merge(base, [one, two], tmp_path / "merged"), CPU)
    beside = TransformersEngine(base, CPU, loras=[one, two])
    alone = TransformersEngine(base, CPU)
    try:
        prompt = merged.tokenize("中文世界你好")
        assert beside.tokenize("中文世界你好") == prompt
        assert beside.vocabulary.size == 55_296
        scores = [engine.score([1], [prompt])[0] for engine in (merged, beside)]
        assert scores[1] == pytest.approx(scores[0], abs=1e-4)
        assert generate(beside, [1, *prompt])[0].text == generate(merged, [1, *prompt])[0].text
        assert alone.vocabulary.size == 32_000
        assert beside.identity != alone.identity
    finally:
        for opened in (merged, beside, alone):
            opened.close()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("quantization", "bound"), [("8bit", 0.1), ("4bit", 0.6)])
def test_bitsandbytes_loads_and_answers_nearly_alike(tmp_path: Path, quantization: str, bound: float) -> None:
    pytest.importorskip("bitsandbytes")
    folder = write_checkpoint(tmp_path / "m", vocabulary=500, hidden=128, ffn=256, spread=0.05)
    write_plain_tokenizer(folder)
    exact = TransformersEngine(folder, CPU)
    small = TransformersEngine(folder, TransformersOptions(device="cpu", dtype="float32", quantization=quantization))
    try:
        tokens = np.random.default_rng(0).integers(3, 500, 60).tolist()
        reference, found = (np.array(one.score([1], [tokens])[0]) for one in (exact, small))
        assert 1e-4 < np.abs(found - reference).max() < bound
        (answer,) = generate(small, [1, *tokens])
        assert answer.usage.completion_tokens == 24
        kinds = {type(module).__name__ for module in small._shared.loaded.model.modules()}
        assert ("Linear8bitLt" if quantization == "8bit" else "Linear4bit") in kinds
        by_itself = load_engine(folder, device="cpu", dtype="auto", quantization=quantization, loras=())
        assert by_itself.dtype == ("float16" if quantization == "8bit" else "float32")
    finally:
        exact.close()
        small.close()


def write_plain_tokenizer(folder: Path) -> None:
    """Byte-level, 500 tokens without merges."""
    from hanpaca.core.engines.torch_tokenizer import _byte_alphabet

    letters = list(_byte_alphabet().values())
    vocabulary = {text: i for i, text in enumerate(["<unk>", "<s>", "</s>", *letters, *(f"x{i}" for i in range(241))])}
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    table = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "pre_tokenizer": split, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(table))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


# -- limits and ends ---------------------------------------------------------------------------------------------


def test_what_cannot_work_is_refused_at_once(engine: TransformersEngine) -> None:
    for request, error in (
        (Request([], GREEDY), BadInput),
        (Request([1, 99_999], GREEDY), BadInput),
        (Request([1], Sampling()), BadInput),
        (Request([1], GREEDY.replace(logit_bias={99_999: 1.0})), BadInput),
        (Request([1] * 690, GREEDY), ContextOverflow),
        (Request([1], GREEDY.replace(json_schema={"type": "object"})), UnsupportedFeature),
    ):
        with pytest.raises(error):
            engine.submit(request, lambda _: None)
    with pytest.raises(UnsupportedFeature):
        engine.embed([[1]])
    with pytest.raises(EngineFailure):
        pickle.dumps(engine)


def test_options_are_checked(folder: Path) -> None:
    source = ModelSource("m", "transformers", folder)
    with pytest.raises(BadInput, match=r"'gpu_layers' is not an option.*dtype"):
        open_engine(source, {"gpu_layers": 1})
    for options in ({"dtype": "int3"}, {"quantization": "2bit"}, {"context": 0}, {"device": "abacus"}):
        with pytest.raises(BadInput):
            open_engine(source, options)


def test_another_architecture_is_refused(folder: Path, tmp_path: Path) -> None:
    edit_json(write_checkpoint(tmp_path / "m", vocabulary=320) / "config.json", model_type="gpt2")
    with pytest.raises(BadModelFile, match="gpt2"):
        TransformersEngine(tmp_path / "m", CPU)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    """transformers fills them with random numbers and warns."""
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(tmp_path / "m", vocabulary=500)
    write_plain_tokenizer(folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    for lost in ("lm_head.weight", name):
        save_file({n: tensor for n, tensor in weights.items() if n != lost}, file, {"format": "pt"})
        with pytest.raises(BadModelFile, match=f"lacks {lost}"):
            TransformersEngine(folder, CPU)
    save_file(weights | {name: weights[name][:, :16].contiguous()}, file, {"format": "pt"})
    with pytest.raises(BadModelFile, match=rf"{name} has the shape \[128, 16\]; config.json says \[128, 64\]"):
        TransformersEngine(folder, CPU)
    save_file(weights, file, {"format": "pt"})
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadModelFile, match="ends too early"):
        TransformersEngine(folder, CPU)


def test_a_split_gguf_is_refused(tmp_path: Path) -> None:
    from gguf_files import write_gguf

    for number in (1, 2):
        path = write_gguf(tmp_path / f"m-0000{number}-of-00002.gguf")
    with pytest.raises(UnsupportedFeature, match=r"split model.*llama\.cpp"):
        TransformersEngine(path, CPU)


def test_cancelling_stops_within_a_step_and_the_listener_hears_no_more(engine: TransformersEngine) -> None:
    heard: list[Delta | BaseException] = []
    first = threading.Event()

    def listen(event: Delta | BaseException) -> None:
        heard.append(event)
        first.set()

    handle = engine.submit(Request([1, 5, 9], GREEDY.replace(max_tokens=200)), listen)
    assert first.wait(30)
    handle.cancel()
    count = len(heard)
    time.sleep(0.3)
    assert len(heard) == count
    handle.cancel()
    assert generate(engine, [1, 5])[0].finish_reason == "length"


def test_a_timeout_ends_a_request(engine: TransformersEngine) -> None:
    with pytest.raises(TimedOut):
        generate(engine, [1, 5], sampling=GREEDY.replace(max_tokens=250, timeout=0.01))


def test_a_full_queue_says_busy(folder: Path) -> None:
    opened = TransformersEngine(folder, TransformersOptions(device="cpu", dtype="float32", running=1, queue=2))
    with pytest.raises(Busy):
        for _ in range(40):
            opened.submit(Request([1, 5], GREEDY.replace(max_tokens=200)), lambda _: None)
    opened.close()


def test_closing_ends_every_caller_and_frees_the_weights_with_the_last_engine(folder: Path) -> None:
    options = TransformersOptions(device="cpu", dtype="float32", running=3)
    first, second = TransformersEngine(folder, options), TransformersEngine(folder, options)
    assert first._shared is second._shared
    heard: list[Delta | BaseException] = []
    ended = threading.Event()

    def listen(event: Delta | BaseException) -> None:
        heard.append(event)
        if isinstance(event, BaseException):
            ended.set()

    first.submit(Request([1, 5], GREEDY.replace(max_tokens=250)), listen)
    first.close()
    assert ended.wait(30)
    assert isinstance(heard[-1], Closed)
    assert generate(second, [1, 5])[0].text
    with pytest.raises(Closed):
        first.submit(Request([1, 5], GREEDY), lambda _: None)
    second.close()
    second.close()
    assert not hasattr(second._shared, "loaded")


def test_a_failing_pass_fails_only_its_requests(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory: the test says so")

    with monkeypatch.context() as patch:
        patch.setattr(TorchDecoder, "_forward", broken)
        with pytest.raises(EngineFailure, match="out of memory"):
            generate(engine, [1, 5, 6])
    assert generate(engine, [1, 5, 6])[0].usage.completion_tokens == 24


def test_nothing_global_changes(folder: Path, tmp_path: Path) -> None:
    from transformers.utils import logging

    before = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
    shown = logging.is_progress_bar_enabled()
    opened = TransformersEngine(folder, CPU)
    generate(opened, [1, 5])
    opened.close()
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == before
    assert logging.is_progress_bar_enabled() == shown
