"""The server as OpenAI's own Python client meets it, on SmolLM2."""

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from loops import ENDLESS, EXACT, chatml_model
from pydantic import BaseModel
from servers import Running, serving

import hanpaca
from hanpaca import Message, Sampling

NO_END: Any = {str(token): -100 for token in ENDLESS}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "extra_body": {"repetition_penalty": 1.0}}
FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, openai.OpenAI]]:
    """F32 weights: the same answer however it is computed."""
    folder = tmp_path_factory.mktemp("exact")
    model = hanpaca.load(chatml_model(folder / "tiny.gguf"), **EXACT)
    with (
        serving(model, library_folder=folder / "library") as server,
        openai.OpenAI(base_url=server.api, api_key="none", max_retries=0, timeout=120) as client,
    ):
        yield server, client


def fields(error: openai.APIStatusError) -> dict[str, Any]:
    assert isinstance(error.body, dict)
    assert {"message", "type", "param", "code"} <= set(error.body)
    return error.body


# -- models -----------------------------------------------------------------------------------------


def test_models_are_listed_and_described(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {"smollm2", "multilingual-e5-small"}
    described: Any = client.models.retrieve("smollm2")
    assert (described.kind, described.max_model_len, described.owned_by) == ("chat", 8192, "hanpaca")


def test_a_model_that_is_not_here_is_a_404_that_names_the_one_that_is(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="serves smollm2") as caught:
        client.chat.completions.create(model="gpt-4", messages=FRANCE)
    assert (fields(caught.value)["type"], fields(caught.value)["code"]) == ("not_found_error", "model_not_found")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


# -- chat -------------------------------------------------------------------------------------------


def test_a_chat_is_the_models_own_answer(client: openai.OpenAI, running: Running) -> None:
    answer = client.chat.completions.create(model="smollm2", messages=FRANCE, **GREEDY)
    assert running.model is not None
    settings = Sampling(temperature=0, max_tokens=24, repetition_penalty=1.0)
    own = running.model.chat([Message("user", FRANCE[0]["content"])], settings)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage and answer.usage.prompt_tokens == own.usage.prompt_tokens
    ended = "length" if answer.usage.completion_tokens == 24 else "stop"  # its words are near ties of quantized weights
    assert (answer.choices[0].finish_reason, answer.object) == (ended, "chat.completion")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_what_a_whole_answer_says(exact: tuple[Running, openai.OpenAI]) -> None:
    client = exact[1]
    asked: dict[str, Any] = {"model": "tiny", "messages": FRANCE, "logit_bias": NO_END, **GREEDY}
    whole = client.chat.completions.create(**asked)
    pieces = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked))
    assert pieces[0].choices[0].delta.role == "assistant"
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == whole.choices[0].message.content and len(text) > 10
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-1] == whole.choices[0].finish_reason
    assert pieces[-1].choices == [] and pieces[-1].usage and whole.usage
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert {piece.id for piece in pieces} == {pieces[0].id}


def test_the_same_seed_gives_the_same_answers_and_each_of_n_is_its_own(exact: tuple[Running, openai.OpenAI]) -> None:
    client = exact[1]
    asked: dict[str, Any] = {"model": "tiny", "messages": FRANCE, "n": 3, "seed": 7, "temperature": 1, "max_tokens": 12}
    first, second = (
        [choice.message.content for choice in client.chat.completions.create(**asked).choices] for _ in range(2)
    )
    assert first == second and len(set(first)) == 3
    streamed = ["", "", ""]
    for piece in client.chat.completions.create(stream=True, **asked):
        for choice in piece.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == first


def test_stop_texts_end_the_answer(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "smollm2", "messages": [{"role": "user", "content": "Count from 1 to 20."}]}
    free = client.chat.completions.create(**asked, **GREEDY).choices[0].message.content or ""
    word = free.split()[2]
    stopped = client.chat.completions.create(stop=[word], **asked, **GREEDY).choices[0]
    assert stopped.message.content == free[: free.index(word)] and stopped.finish_reason == "stop"


def test_logprobs_are_of_the_tokens_said(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "smollm2", "messages": FRANCE, "logprobs": True, "top_logprobs": 2}
    choice = client.chat.completions.create(**asked, **GREEDY).choices[0]
    assert choice.logprobs and choice.logprobs.content
    said = b"".join(bytes(token.bytes or []) for token in choice.logprobs.content)
    assert said.decode() == choice.message.content
    for token in choice.logprobs.content:
        assert len(token.top_logprobs) == 2 and token.logprob <= 0
        assert math.isclose(token.top_logprobs[0].logprob, token.logprob, abs_tol=1e-5)  # greedy
    streamed = [
        token.token
        for piece in client.chat.completions.create(stream=True, **asked, **GREEDY)
        for one in piece.choices
        if one.logprobs and one.logprobs.content
        for token in one.logprobs.content
    ]
    assert len(streamed) == len(choice.logprobs.content)


def test_a_schema_is_enforced_and_what_cannot_be_is_refused(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        },
        "required": ["city", "stars"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "rating", "strict": True, "schema": schema}}
    asked: list[Any] = [{"role": "user", "content": "Rate Paris as JSON."}]
    answer = client.chat.completions.create(
        model="smollm2", messages=asked, response_format=form, temperature=0, max_tokens=60
    )
    told = json.loads(answer.choices[0].message.content or "")
    assert set(told) == {"city", "stars"} and 1 <= told["stars"] <= 5
    schema["properties"]["city"] = {"type": "array", "uniqueItems": True}  # type: ignore[index]
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
        client.chat.completions.create(model="smollm2", messages=asked, response_format=form)
    assert fields(caught.value)["code"] == "unsupported_feature"


def test_any_json_object(client: openai.OpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": 'Answer {"a": 1} only.'}]
    answer = client.chat.completions.create(
        model="smollm2", messages=asked, response_format={"type": "json_object"}, temperature=0, max_tokens=200
    ).choices[0]
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content or ""), dict)
    else:
        assert (answer.message.content or "").startswith("{")


def test_the_predecessors_fields(client: openai.OpenAI) -> None:
    def ask(**fields: Any) -> str:
        body: dict[str, Any] = {"temperature": 1.0, "max_tokens": 12, "extra_body": fields}
        answer = client.chat.completions.create(model="smollm2", messages=FRANCE, **body)
        return answer.choices[0].message.content or ""

    assert ask(do_sample=False, num_beams=1) == ask(do_sample=False, seed=5) == ask(top_k=1)
    with pytest.raises(openai.BadRequestError, match="num_beams"):
        ask(num_beams=4)


def test_what_is_not_understood_is_refused_by_name(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with pytest.raises(openai.BadRequestError, match="not trained to call tools") as caught:
        client.chat.completions.create(model="smollm2", messages=FRANCE, tools=tools)
    assert fields(caught.value)["code"] == "unsupported_feature"
    with pytest.raises(openai.BadRequestError, match="'tempreature' is not a field"):
        client.chat.completions.create(model="smollm2", messages=FRANCE, extra_body={"tempreature": 1})
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="smollm2", messages=FRANCE, temperature=-1)
    image: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]
    with pytest.raises(openai.BadRequestError, match="text only, no part of type 'image_url'"):
        client.chat.completions.create(model="smollm2", messages=image)
    call: Any = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history: list[Any] = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "5"}]
    for messages in (history[:1], history[1:]):
        with pytest.raises(openai.BadRequestError, match="Leave out the messages of tools"):
            client.chat.completions.create(model="smollm2", messages=messages)
    with pytest.raises(openai.BadRequestError, match="stop: There are 70 stop texts"):
        client.chat.completions.create(model="smollm2", messages=FRANCE, stop=["a"] * 70)
    with pytest.raises(openai.BadRequestError, match="input: There are 2,049 texts"):
        client.embeddings.create(model="multilingual-e5-small", input=["a"] * 2049)
    wrong: Any = [{"role": "user", "content": 5}]
    with pytest.raises(openai.BadRequestError, match=r"messages.content"):
        client.chat.completions.create(model="smollm2", messages=wrong)
    with pytest.raises(openai.BadRequestError, match="context") as caught:
        client.chat.completions.create(model="smollm2", messages=[{"role": "user", "content": "word " * 9000}])
    assert fields(caught.value)["code"] == "context_length_exceeded"


def test_null_is_as_good_as_left_out(running: Running) -> None:
    nothing = dict.fromkeys(
        ("use_documents", "return_tokens_as_token_ids", "n", "stop", "stream", "logit_bias", "response_format", "mode")
    )
    said = {"role": "assistant", "content": "Rome.", "reasoning_content": None}
    body: dict[str, Any] = {"messages": [*FRANCE, said | {"reasoning_content": "Hm."}, said, *FRANCE], "max_tokens": 1}
    assert httpx.post(f"{running.api}/chat/completions", json=body | nothing, timeout=60).status_code == 200
    options = {"stream": True, "stream_options": {"include_obfuscation": True}}
    assert httpx.post(f"{running.api}/chat/completions", json=body | options, timeout=60).status_code == 200
    text = {"prompt": "a", "max_tokens": 1, "echo": None, "raw": None, "suffix": None}
    assert httpx.post(f"{running.api}/completions", json=text, timeout=60).status_code == 200
    embedded = {"input": "a", "input_type": None, "dimensions": None}
    assert httpx.post(f"{running.api}/embeddings", json=embedded, timeout=60).status_code == 200
    unknown = httpx.post(f"{running.api}/embeddings", json={"input": "a", "colour": None}, timeout=60)
    assert unknown.status_code == 400 and "'colour' is not a field" in unknown.text


def test_an_answer_can_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="smollm2", messages=FRANCE, **GREEDY).choices[0].message
    messages: list[Any] = [*FRANCE, first, {"role": "user", "content": [{"type": "text", "text": "And of Italy?"}]}]
    assert client.chat.completions.create(model="smollm2", messages=messages, **GREEDY).choices[0].message.content


class Capital(BaseModel):
    """An answer in a form."""

    european: bool


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of OpenAI's client, about its own message
def test_an_answer_that_was_parsed_can_be_sent_back_too(client: openai.OpenAI) -> None:
    first = client.chat.completions.parse(model="smollm2", messages=FRANCE, response_format=Capital, **GREEDY)
    message = first.choices[0].message
    assert isinstance(message.parsed, Capital)
    messages: list[Any] = [*FRANCE, message, *FRANCE]
    assert client.chat.completions.create(model="smollm2", messages=messages, **GREEDY).choices[0].message.content


def test_an_answer_that_was_begun_goes_on(client: openai.OpenAI) -> None:
    begun: list[Any] = [*FRANCE, {"role": "assistant", "content": "The capital of France is"}]
    said = client.chat.completions.create(model="smollm2", messages=begun, **GREEDY).choices[0].message.content or ""
    assert said.lstrip().startswith("Paris")
    nothing: list[Any] = [*FRANCE, {"role": "assistant", "content": ""}]
    usages = [
        client.chat.completions.create(model="smollm2", messages=messages, **GREEDY).usage
        for messages in (nothing, FRANCE)
    ]
    assert usages[0] and usages[1] and usages[0].prompt_tokens == usages[1].prompt_tokens
    alone = client.chat.completions.create(model="smollm2", messages=nothing[1:], **GREEDY)
    assert alone.choices[0].finish_reason


async def test_the_asynchronous_client(running: Running) -> None:
    async with openai.AsyncOpenAI(base_url=running.api, api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model="smollm2", messages=FRANCE, stream=True, **GREEDY)
        text = "".join([piece.choices[0].delta.content or "" async for piece in stream])
    assert "Paris" in text


# -- completions and embeddings ---------------------------------------------------------------------


def test_a_chat_models_prompt_is_wrapped_unless_raw(client: openai.OpenAI, running: Running) -> None:
    text = "What is the capital of France?"
    assert running.model is not None
    wrapped = client.completions.create(model="smollm2", prompt=text, **GREEDY)
    assert wrapped.usage
    assert wrapped.usage.prompt_tokens == running.model.count_tokens([Message("user", text)])
    body = {"raw": True, "repetition_penalty": 1.0}
    raw = client.completions.create(model="smollm2", prompt=text, max_tokens=4, extra_body=body)
    assert raw.usage and raw.usage.prompt_tokens == len(running.model.prompt_tokens(text))


def test_prompts_of_token_ids_are_computed_as_they_are(exact: tuple[Running, openai.OpenAI]) -> None:
    server, client = exact
    assert server.model is not None
    ids = server.model.chat_tokens([Message("user", "你好")])
    by_ids = client.completions.create(model="tiny", prompt=[ids, ids[:4]], **GREEDY)
    by_text = client.completions.create(model="tiny", prompt="你好", **GREEDY)
    assert by_ids.choices[0].text == by_text.choices[0].text
    assert [choice.index for choice in by_ids.choices] == [0, 1]
    assert by_ids.usage and by_ids.usage.prompt_tokens == len(ids) + 4
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        client.completions.create(model="tiny", prompt=[10**6])


def test_an_echo_scores_the_prompt(exact: tuple[Running, openai.OpenAI]) -> None:
    server, client = exact
    assert server.model is not None
    ids = server.model.prompt_tokens("the cat")
    told = client.completions.create(model="tiny", prompt=ids, echo=True, max_tokens=0, logprobs=0)
    assert told.usage and told.usage.completion_tokens == 0
    found = told.choices[0].logprobs
    assert found and found.token_logprobs and found.token_logprobs[0] is None
    assert found.token_logprobs[1:] == pytest.approx(server.engine.score(ids[:1], [ids[1:]])[0])
    both = client.completions.create(model="tiny", prompt="the cat", echo=True, **GREEDY).choices[0].text
    assert both.startswith("the cat") and len(both) > len("the cat")
    streamed = client.completions.create(model="tiny", prompt="the cat", echo=True, stream=True, **GREEDY)
    assert "".join(piece.choices[0].text for piece in streamed) == both
    scored: dict[str, Any] = {"model": "tiny", "prompt": ids, "echo": True, "logprobs": 0, **GREEDY}
    whole = client.completions.create(**scored).choices[0].logprobs
    pieces = [piece.choices[0].logprobs for piece in client.completions.create(stream=True, **scored)]
    assert whole and pieces[0] and pieces[0].token_logprobs and pieces[0].token_logprobs[0] is None
    for column in ("tokens", "token_logprobs"):
        assert [one for piece in pieces if piece for one in getattr(piece, column)] == getattr(whole, column)


def test_embeddings_in_both_forms(client: openai.OpenAI) -> None:
    texts = ["Where do llamas live?", "Llamas live in the Andes.", "量化用更少的位数保存权重。"]
    by_base64 = client.embeddings.create(model="multilingual-e5-small", input=texts).data  # the client's own choice
    by_number = client.embeddings.create(model="multilingual-e5-small", input=texts, encoding_format="float").data
    first, second, third = (item.embedding for item in by_number)
    assert by_base64[2].embedding == pytest.approx(third, abs=1e-6) and math.isclose(
        math.hypot(*first), 1, abs_tol=1e-3
    )

    def near(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert near(first, second) > near(first, third)
    with pytest.raises(openai.BadRequestError, match="names no pooling"):
        client.embeddings.create(model="smollm2", input="text")
    with pytest.raises(openai.BadRequestError, match="384"):
        client.embeddings.create(model="multilingual-e5-small", input="text", dimensions=100)
    with pytest.raises(openai.BadRequestError, match=r"Text 1 to embed has 30,\d+ tokens; at most 8,192"):
        client.embeddings.create(model="multilingual-e5-small", input=["text", "羊驼 " * 10_000])
