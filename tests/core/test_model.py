"""`hanpaca.load` and `Model` as a user meets them, on SmolLM2."""

import asyncio
import pickle
from typing import Any

import gguf_files
import pytest

import hanpaca
from hanpaca import Message, Sampling
from hanpaca.core.engines.llama_cpp import LlamaCppEngine
from hanpaca.core.errors import BadInput, BadModelFile, Closed, ContextOverflow, ModelNotFound, UnsupportedFeature

GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_tokens=20)
CAPITAL = [Message("user", "What is the capital of France?")]


@pytest.fixture(scope="module")
def model(smollm2):
    with hanpaca.load("smollm2") as loaded:
        yield loaded


def test_loading_touches_no_weights_until_they_are_needed(smollm2):
    model = hanpaca.load("smollm2")
    assert model._engine is None
    assert (model.kind, model.languages, model.name) == ("chat", ("en",), "smollm2")
    assert model.identity and model._engine is None


def test_another_engine_than_the_usual_one(smollm2, tmp_path):
    pytest.importorskip("transformers")
    with hanpaca.load("smollm2", engine="transformers", device="cpu", context=256) as loaded:
        assert loaded.source.path == smollm2 and loaded.engine.identity.startswith("transformers")
        question = [Message("user", "What is the capital of Japan?")]
        assert "Tokyo" in loaded.chat(question, GREEDY, max_tokens=9).text
    with pytest.raises(BadInput, match="Valid: llama_cpp, transformers, remote"):
        hanpaca.load("smollm2", engine="vllm")
    with pytest.raises(BadInput, match="on this machine: the engine remote cannot"):
        hanpaca.load("smollm2", engine="remote")
    with pytest.raises(BadInput, match="at a server"):
        hanpaca.load("http://localhost:1/v1", engine="transformers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="hanpaca convert"):
        hanpaca.load(tmp_path, engine="llama_cpp")


def test_a_real_model_answers_a_chat(model):
    assert "Tokyo" in model.chat([Message("user", "What is the capital of Japan?")], GREEDY).text


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """F32 weights and cache: the same answer however it is computed."""
    path = tmp_path_factory.mktemp("exact") / "exact.gguf"
    controls = ("<|im_start|>", "<|im_end|>")
    gguf_files.write_gguf(path, controls=controls, chat_template=gguf_files.CHATML, context=512)
    with hanpaca.load(path, kv_type="f32", flash_attention=False, threads=1) as loaded:
        yield loaded


def test_chat_and_its_forms_agree(exact):
    answer = exact.chat(CAPITAL, GREEDY)
    assert answer.text and answer.usage.completion_tokens
    assert "".join(delta.text for delta in exact.stream_chat(CAPITAL, GREEDY)) == answer.text
    assert exact.chat([{"role": "user", "content": CAPITAL[0].content}], GREEDY).text == answer.text
    assert asyncio.run(exact.achat(CAPITAL, GREEDY)).text == answer.text

    async def pieces():
        return [delta.text async for delta in exact.astream_chat(CAPITAL, GREEDY)]

    assert "".join(asyncio.run(pieces())) == answer.text


def test_a_batch_answers_in_order(exact):
    asked = [[Message("user", f"What is the capital of {country}?")] for country in ("France", "Italy", "Japan")]
    answers = exact.chat_batch(asked, GREEDY)
    assert [a.text for a in answers] == [exact.chat(conversation, GREEDY).text for conversation in asked]
    assert [a.usage.prompt_tokens for a in asyncio.run(exact.achat_batch(asked, GREEDY))] == [
        exact.count_tokens(conversation) for conversation in asked
    ]


def test_no_requests_give_no_answers(model):
    assert model.chat_batch([], GREEDY) == []
    assert asyncio.run(model.acomplete_batch([], GREEDY)) == []


def test_complete_continues_a_text(model):
    answer = model.complete("The capital of France is", GREEDY, max_tokens=4)
    assert "Paris" in answer.text and answer.usage.completion_tokens <= 4


def test_an_answer_that_was_begun_goes_on(model):
    begun = [*CAPITAL, Message("assistant", "The capital of France is")]
    assert "Paris" in model.chat(begun, GREEDY, max_tokens=6).text


def test_a_conversation_may_end_with_a_system_message(model):
    talk = [*CAPITAL, Message("assistant", "Paris."), Message("system", "Be brief.")]
    assert model.chat_tokens(talk) == model.chat_tokens([talk[-1], *talk[:-1], Message("user", "")])


def test_score_prefers_what_is_true(model):
    right, wrong = model.score("The capital of France is", [" Paris", " Tokyo"])
    assert sum(right) > sum(wrong)
    assert model.score("The capital of France is", " Paris") == pytest.approx(right)


def test_settings_are_checked_by_name(model):
    with pytest.raises(BadInput, match="max_token"):
        model.chat(CAPITAL, max_token=3)


def test_engine_options_are_checked_by_name(smollm2):
    with pytest.raises(BadInput, match="n_ctx") as error:
        hanpaca.load("smollm2", n_ctx=100).chat(CAPITAL)
    assert "context" in error.value.hint


def test_a_prompt_that_fills_the_context_is_refused(smollm2):
    with hanpaca.load("smollm2", context=64) as small:
        with pytest.raises(ContextOverflow, match="64"):
            small.chat([Message("user", "word " * 100)])
        assert small.chat([Message("user", "Hi")], temperature=0).usage.total_tokens <= 64


def test_beyond_the_native_window_the_context_is_extended(smollm2):
    """A conversation that crosses a context size goes on, with another RoPE plan."""
    with hanpaca.load("smollm2", context=10_000, kv_type="q8_0") as model:
        assert model.context_length == 10_000 and model.native_context == 8192
        short = model.request("a")
        assert short.sampling.max_tokens and len(short.tokens) + short.sampling.max_tokens <= 8192
        long = model.request("word " * 8300)
        assert isinstance(model.engine, LlamaCppEngine) and long.sampling.max_tokens
        key: Any = model.engine._key(len(long.tokens), long.sampling.max_tokens, 0)
        assert key.plan.extension == "yarn" and key.plan.rope.factor == pytest.approx(10_000 / 8192)


def test_a_closed_model_says_so(smollm2):
    model = hanpaca.load("smollm2")
    model.chat(CAPITAL, GREEDY)
    model.close()
    model.close()
    with pytest.raises(Closed, match="smollm2"):
        model.chat(CAPITAL)


def test_a_model_is_pickled_without_its_weights(model):
    copy = pickle.loads(pickle.dumps(model))
    assert copy._engine is None and copy.identity == model.identity


def test_models_that_answer_differently_have_different_identities(smollm2):
    variants: list[dict[str, Any]] = [{}, {"system_prompt": "Be brief."}, {"context": 4096}, {"kv_type": "q8_0"}]
    assert len({hanpaca.load("smollm2", **options).identity for options in variants}) == len(variants)


def test_a_changed_adapter_is_another_identity(smollm2, tmp_path):
    adapter = tmp_path / "adapter.gguf"
    adapter.write_bytes(b"one")
    before = hanpaca.load(smollm2, loras=[adapter]).identity
    adapter.write_bytes(b"other")
    assert hanpaca.load(smollm2, loras=[adapter]).identity != before
    assert hanpaca.load(smollm2, loras=[(adapter, 0.5)]).identity != hanpaca.load(smollm2, loras=[adapter]).identity


def test_unknown_names_list_near_ones():
    with pytest.raises(ModelNotFound, match="chinese-alpaca-2-7b"):
        hanpaca.load("chinese-alpaca-2-7")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 100])
def test_files_that_are_no_models_are_refused(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(BadModelFile):
        hanpaca.load(path).chat(CAPITAL)


def test_a_truncated_file_is_refused(tmp_path):
    path = gguf_files.write_gguf(tmp_path / "whole.gguf")
    short = tmp_path / "short.gguf"
    short.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadModelFile, match=r"(?i)truncated|incomplete|shorter"):
        hanpaca.load(short).chat(CAPITAL)


def test_a_base_model_continues_and_does_not_chat(tmp_path):
    with hanpaca.load(gguf_files.write_gguf(tmp_path / "base.gguf")) as base:
        assert base.kind == "base"
        assert base.complete("the", GREEDY).usage.prompt_tokens == len(base.prompt_tokens("the"))
        with pytest.raises(UnsupportedFeature, match="complete"):
            base.chat(CAPITAL)


async def test_closing_an_async_stream_stops_the_work_at_once(model):
    stream = model.astream_chat([Message("user", "Count to one thousand.")], max_tokens=400)
    await anext(stream)
    await stream.aclose()
    await asyncio.sleep(0.3)
    computed = model.engine.computed
    await asyncio.sleep(0.3)
    assert model.engine.computed == computed


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda model: model.complete(5), "a text, not int"),
        (lambda model: model.complete(None), "a text, not NoneType"),
        (lambda model: model.score(b"x", "y"), "a text, not bytes"),
        (lambda model: model.complete_batch("abc"), "Several prompts are wanted"),
        (lambda model: model.chat("Hi"), "a list of messages, not str"),
        (lambda model: model.chat(None), "a list of messages, not NoneType"),
        (lambda model: model.chat(CAPITAL[0]), "a list of messages, not Message"),
        (lambda model: model.chat({"role": "user", "content": "Hi"}), "a list of messages, not dict"),
        (lambda model: model.chat(CAPITAL, max_tokens="3"), "max_tokens must be a number, not '3' of type str"),
        (lambda model: model.chat(CAPITAL, seed=2**32 - 1), "at most 4,294,967,294, not 4294967295"),
    ],
)
def test_what_is_of_another_type_is_told(model, call, why):
    with pytest.raises(BadInput, match=why):
        call(model)


def test_settings_may_be_a_mapping(model):
    assert model.chat(CAPITAL, {"temperature": 0, "max_tokens": 3}).usage.completion_tokens == 3
    with pytest.raises(BadInput, match="max_token"):
        model.chat(CAPITAL, {"max_token": 3})


def test_an_empty_system_prompt_is_none(smollm2):
    with hanpaca.load("smollm2", system_prompt="") as loaded, hanpaca.load("smollm2") as usual:
        assert loaded.chat_tokens(CAPITAL) == usual.chat_tokens([Message("system", ""), *CAPITAL])
        assert len(loaded.chat_tokens(CAPITAL)) < len(usual.chat_tokens(CAPITAL)) - 10
