"""The remote engine against our own server, over exact weights: what comes over the network is what the model says."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf_files
import pytest
from servers import Running, serving, stands_still, until

import hanpaca
from hanpaca import Message, Model, Sampling
from hanpaca.core.engines.remote import RemoteOptions
from hanpaca.core.engines.remote_dialects import DIALECTS, body_of, dialect_of
from hanpaca.core.engines.remote_http import Address, failure
from hanpaca.core.errors import (
    BadInput,
    Busy,
    Closed,
    ContextOverflow,
    EngineFailure,
    EngineUnavailable,
    ModelNotFound,
    TimedOut,
    UnsupportedFeature,
)

EXACT: dict[str, Any] = {"kv_type": "f32", "flash_attention": False, "threads": 1}
GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_tokens=20, logit_bias={2: float("-inf")})
ASKED = [Message("user", "你好，what is the capital of France?")]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("remote") / "exact.gguf"
    controls = ("<|im_start|>", "<|im_end|>")
    return gguf_files.write_gguf(path, controls=controls, chat_template=gguf_files.CHATML, context=2048)


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[Running]:
    model = hanpaca.load(weights, **EXACT)
    with serving(model, library_folder=weights.parent / "library", tokens=("key",)) as running:
        yield running


@pytest.fixture(scope="module")
def near(server: Running) -> Model:
    """The model itself."""
    assert server.model is not None
    return server.model


@pytest.fixture(scope="module")
def far(server: Running, weights: Path) -> Iterator[Model]:
    """The same through the server."""
    with hanpaca.load(f"{server.api}#exact", tokenizer=weights, api_key="key") as model:
        yield model


# -- the same answers ----------------------------------------------------------------------------------------------


def test_a_remote_model_says_what_the_model_says(near: Model, far: Model) -> None:
    own, other = near.chat(ASKED, GREEDY), far.chat(ASKED, GREEDY)
    assert other.text == own.text and len(own.text) > 5
    assert (other.finish_reason, other.usage.prompt_tokens) == (own.finish_reason, own.usage.prompt_tokens)
    assert other.usage.completion_tokens == own.usage.completion_tokens
    assert "".join(delta.text for delta in far.stream_chat(ASKED, GREEDY)) == own.text
    assert asyncio.run(far.achat(ASKED, GREEDY)).text == own.text
    assert far.complete("the 你好", GREEDY).text == near.complete("the 你好", GREEDY).text
    assert (far.kind, far.context_length) == ("chat", near.context_length)


def test_every_setting_arrives(near: Model, far: Model) -> None:
    stop = near.chat(ASKED, GREEDY).text[3:5]
    for settings in (
        {"stop": (stop,)}, {"temperature": 1.0, "seed": 5, "top_k": 0, "top_p": 1.0}, {"repetition_penalty": 1.5},
        {"presence_penalty": 1.0, "penalty_last_n": 8}, {"frequency_penalty": 1.0},
        {"min_p": 0.2, "temperature": 2.0, "seed": 1},
        {"typical_p": 0.5, "temperature": 1.5, "seed": 2}, {"mirostat": 2, "temperature": 1.0, "seed": 3},
        {"logit_bias": {65: 50.0}}, {"grammar": 'root ::= "yes" | "no"', "logit_bias": {}},
        {"json_schema": {"enum": ["甲", "乙"]}, "logit_bias": {}}, {"max_tokens": 3},
    ):  # fmt: skip
        own, other = near.chat(ASKED, GREEDY, **settings), far.chat(ASKED, GREEDY, **settings)
        assert (other.text, other.finish_reason) == (own.text, own.finish_reason), settings


def test_logprobs_and_scores_are_the_models(near: Model, far: Model) -> None:
    own, other = near.chat(ASKED, GREEDY, logprobs=2), far.chat(ASKED, GREEDY, logprobs=2)
    assert [one.token for one in other.logprobs] == [one.token for one in own.logprobs] and own.logprobs
    for mine, theirs in zip(own.logprobs, other.logprobs, strict=True):
        assert theirs.logprob == pytest.approx(mine.logprob, abs=1e-6) and theirs.text == mine.text
        assert [token for token, *_ in theirs.top] == [token for token, *_ in mine.top]
    texts = ["the cat", "你好", ""]
    scored: Any = far.score("a prompt", texts)
    assert [len(one) for one in scored] == [len(near.engine.tokenize(text)) for text in texts]
    same: Any
    for one, same in zip(scored, near.score("a prompt", texts), strict=True):
        assert one == pytest.approx(same, abs=1e-6)


def test_a_batch_is_longer_than_the_lines_that_are_open(server: Running, weights: Path, near: Model) -> None:
    asked = [[Message("user", f"word {number}")] for number in range(12)]
    with hanpaca.load(f"{server.api}#exact", tokenizer=weights, api_key="key", running=3, queue=2) as model:
        answers = model.chat_batch(asked, GREEDY)
    assert [answer.text for answer in answers] == [near.chat(one, GREEDY).text for one in asked]


# -- stopping ------------------------------------------------------------------------------------------------------


def test_closing_a_stream_stops_the_servers_work(server: Running, far: Model) -> None:
    stream = far.stream_chat(ASKED, GREEDY, max_tokens=1800)
    for _ in zip(range(3), stream, strict=False):
        pass
    stream.close()  # type: ignore[attr-defined]
    assert stands_still(server.engine)
    until(lambda: not far.engine._open)  # type: ignore[attr-defined]


def test_closing_the_model_ends_its_requests(server: Running, weights: Path) -> None:
    model = hanpaca.load(f"{server.api}#exact", tokenizer=weights, api_key="key")
    stream = model.stream_chat(ASKED, GREEDY, max_tokens=1800)
    next(stream)
    threading.Timer(0.1, model.close).start()
    with pytest.raises(Closed):
        list(stream)
    assert stands_still(server.engine)
    with pytest.raises(Closed):
        model.chat(ASKED, GREEDY)


def test_a_request_ends_at_its_own_time_limit(far: Model, server: Running) -> None:
    with pytest.raises(TimedOut):
        far.chat(ASKED, GREEDY, max_tokens=1900, timeout=0.05)
    assert stands_still(server.engine)


# -- what goes wrong -----------------------------------------------------------------------------------------------


def load(at: Running, name: str, **options: Any) -> Model:
    return hanpaca.load(f"{at.api}{name}", **{"api_key": "key", **options})


def test_what_is_missing_is_said_before_anything_is_asked(server: Running, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tokenizer="):
        _ = load(server, "#exact").engine
    with pytest.raises(BadInput, match="no tokenizer"):
        _ = load(server, "#exact", tokenizer=tmp_path / "none").engine
    with pytest.raises(ModelNotFound, match="It serves: exact"):
        _ = load(server, "#other", tokenizer=weights).engine
    with pytest.raises(BadInput, match="api_key"):
        _ = load(server, "#exact", tokenizer=weights, api_key="wrong").engine
    with pytest.raises(BadInput, match="Valid: tokenizer, context"):
        _ = load(server, "#exact", kv_type="f16").engine
    with pytest.raises(BadInput, match="kind of server"):
        _ = load(server, "#exact", tokenizer=weights, server="gpt").engine
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(EngineUnavailable, match="cannot be reached"):
            _ = hanpaca.load(url, tokenizer=weights).engine


def test_the_first_model_answers_where_none_is_named(server: Running, weights: Path) -> None:
    with load(server, "", tokenizer=weights, context=100) as model:
        assert model.context_length == 100 and model.chat(ASKED, GREEDY, max_tokens=2).usage.completion_tokens == 2
        with pytest.raises(ContextOverflow):
            model.chat(ASKED, GREEDY, max_tokens=500)


def test_the_key_stays_out_of_what_is_kept_and_shown(server: Running, weights: Path) -> None:
    with load(server, "#exact", tokenizer=weights, api_key="key") as model:
        shown = f"{model!r} {model.identity} {model.engine.identity} {model.engine._address!r}"  # type: ignore[attr-defined]
    assert "key" not in shown.replace("tokenizer", "") and "key" not in repr(RemoteOptions(api_key="key"))


def test_a_catalog_model_brings_its_tokenizer(smollm2: Path) -> None:
    from hanpaca.core.catalog import resolve
    from hanpaca.core.engines.remote_tokenizer import tokenizer_for

    tokenizer = tokenizer_for(resolve("http://localhost:8000/v1#smollm2"), None)
    with hanpaca.load("smollm2", threads=1) as model:
        assert tokenizer.tokenize("你好 llama", special=False) == model.engine.tokenize("你好 llama")


def test_a_sentencepiece_file_is_a_tokenizer(tmp_path: Path, data: Path) -> None:
    from hanpaca.core.catalog import resolve
    from hanpaca.core.engines.remote_tokenizer import tokenizer_for

    model = data / "tokenizers/chinese-llama2-55296.tokenizer.model"
    (tmp_path / "tokenizer.model").write_bytes(model.read_bytes())
    source = resolve("http://localhost:8000/v1#some-name")
    assert tokenizer_for(source, tmp_path / "tokenizer.model").vocabulary.size == 55_296
    assert tokenizer_for(source, tmp_path).tokenize("人工智能", special=False)
    with pytest.raises(BadInput, match=r"as tokenizer\.model"):
        tokenizer_for(source, model)


def answering(*replies: bytes) -> tuple[str, threading.Thread, socket.socket]:
    """A server that says these bytes to one connection after another."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for reply in replies:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/v1", thread, listening


def http_reply(body: bytes, status: int = 200, kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


MODELS = http_reply(b'{"data": [{"id": "m", "max_model_len": 2048, "owned_by": "vllm"}]}')


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (http_reply(b'{"error": {"message": "full"}}', 429), Busy),
        (http_reply(b'{"message": "This model\'s maximum context length is 8"}', 400), ContextOverflow),
        (http_reply(b"<html>", 500), EngineFailure),
        (http_reply(b"", 503), EngineUnavailable),
        (b"", EngineFailure),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndata: {\"choices\": [{\"text\": \"a\"}]}\n\n", EngineFailure),
        (http_reply(b"data: {broken\n\n"), EngineFailure),
        (http_reply(b"data: [1]\n\ndata: [DONE]\n\n"), EngineFailure),
        (http_reply(b'data: {"choices": [{"finish_reason": "abort"}]}\n\ndata: [DONE]\n\n'), EngineFailure),
        (http_reply(b'data: {"error": {"message": "oh"}}\n\n'), EngineFailure),
    ],
)  # fmt: skip
def test_what_servers_say_when_they_fail(reply: bytes, error: type[Exception], weights: Path) -> None:
    url, thread, listening = answering(MODELS, reply)
    with listening, hanpaca.load(url, tokenizer=weights) as model:
        with pytest.raises(error):
            model.chat(ASKED, temperature=0)
        thread.join(20)


def test_a_server_that_tells_no_prompt_logprobs_cannot_score(weights: Path) -> None:
    url, _, listening = answering(MODELS, http_reply(b'{"choices": [{"index": 0, "text": "", "logprobs": null}]}'))
    with (
        listening,
        hanpaca.load(url, tokenizer=weights) as model,
        pytest.raises(UnsupportedFeature, match="Score with"),
    ):
        model.score("the", "cat")


def test_a_setting_that_a_server_lacks_is_refused_if_it_was_changed() -> None:
    plain = Sampling(max_tokens=5)
    assert "top_k" not in body_of(plain, DIALECTS["openai"]) and body_of(plain, DIALECTS["vllm"])["top_k"] == 40
    with pytest.raises(UnsupportedFeature, match="top_k"):
        body_of(plain.replace(top_k=3), DIALECTS["openai"])
    with pytest.raises(UnsupportedFeature, match="mirostat"):
        body_of(plain.replace(mirostat=2), DIALECTS["vllm"])
    assert body_of(plain.replace(top_k=0), DIALECTS["vllm"])["top_k"] == -1
    assert body_of(plain.replace(repetition_penalty=2.0), DIALECTS["llama-server"])["repeat_penalty"] == 2.0
    assert [dialect_of({"owned_by": name}).name for name in ("vllm", "llamacpp", "me")] == [
        "vllm",
        "llama-server",
        "openai",
    ]


def test_addresses_that_are_none() -> None:
    for url in ("ftp://host/v1", "http://", "http://user:password@host/v1"):
        with pytest.raises(BadInput, match="not the address"):
            Address(url)
    assert isinstance(failure(401, b"{}", "url"), BadInput)
