"""The PyTorch engine on small checkpoints with random weights, and on SmolLM2 read from its GGUF file."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint, write_tokenizer
from torch_engines import CPU, GREEDY, engine, folder, generate, one_thread, write_plain_tokenizer

from hanpaca.core.engines import streams
from hanpaca.core.engines.base import Request
from hanpaca.core.engines.llama_cpp import LlamaCppEngine, LlamaCppOptions
from hanpaca.core.engines.torch_model import load as load_engine
from hanpaca.core.engines.transformers import TransformersEngine, TransformersOptions
from hanpaca.core.errors import (
    ContextOverflow,
)
from hanpaca.core.gguf_header import read, rope_of
from hanpaca.core.sampling import Sampling
from hanpaca.core.weights.convert import convert
from hanpaca.core.weights.merge import merge

__all__ = ["engine", "folder", "one_thread"]

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


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


@pytest.mark.parametrize(
    "settings",
    [
        {"grammar": 'root ::= ("北京" | "巴黎"){2} [^a-z]{3} "。"'},
        {"json_schema": {
            "type": "object", "required": ["城市", "n"],
            "properties": {"城市": {"enum": ["北京", "巴黎"]}, "n": {"type": "integer", "minimum": 7, "maximum": 1000}},
        }},
    ],
)  # fmt: skip
def test_answers_match_what_they_must_and_are_those_of_the_other_engine(
    settings: dict[str, Any], engine: TransformersEngine, folder: Path, tmp_path: Path
) -> None:
    file = convert(folder, tmp_path / "m.gguf", "f32")
    native = LlamaCppEngine(file, rope_of(read(file)), LlamaCppOptions(kv_type="f32", flash_attention=False, threads=1))
    sampling = GREEDY.replace(max_tokens=60, **settings)
    try:
        expected = [answer.text for answer in generate(native, *random_prompts(3), sampling=sampling)]
    finally:
        native.close()
    answers = generate(engine, *random_prompts(3), sampling=sampling)
    assert [answer.text for answer in answers] == expected
    for answer in answers:
        assert answer.finish_reason == "stop"
        if "json_schema" in settings:
            assert 7 <= json.loads(answer.text)["n"] <= 1000
        else:
            assert re.fullmatch(r"(北京|巴黎){2}[^a-z]{3}。", answer.text, re.DOTALL)


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
