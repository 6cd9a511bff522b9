"""The real text-generation-webui drives the extension: its own loading of extensions, prompts, chat and API functions.

HANPACA_WEBUI_DIR names a checkout (commit ed888c71 is the one that was tested); without it these tests skip. Beside our
own packages they need pyyaml, jinja2, numpy, requests, ddgs, markdown, pillow and rich, and for the API tiktoken. The
checkout itself is only read: its user_data is copied.
"""

from __future__ import annotations

import copy
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hanpaca.core.chat import Llama2Template, Message
from hanpaca.integrations.webui import extension
from hanpaca.integrations.webui.install import host_in, install
from hanpaca.integrations.webui.template import template_text

pytestmark = [pytest.mark.filterwarnings("default")]  # the host's own warnings are not ours to mend
QUESTION = "What is the capital of France?"
LLAMA = "How much does a grown llama carry?"


@pytest.fixture(scope="module")
def web_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The host's modules, loaded as server.py loads them, with the extension installed and SmolLM2 behind it."""
    checkout = os.environ.get("HANPACA_WEBUI_DIR")
    if not checkout or not (Path(checkout) / "server.py").is_file():
        pytest.skip("HANPACA_WEBUI_DIR does not name a checkout of text-generation-webui")
    for needed in ("yaml", "requests", "ddgs", "markdown", "PIL"):
        pytest.importorskip(needed)
    data = tmp_path_factory.mktemp("用户 数据") / "user_data"
    shutil.copytree(Path(checkout) / "user_data", data)
    install(host_in(Path(checkout), data))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        patch.syspath_prepend(checkout)
        patch.setattr(sys, "argv", ["server.py", "--user-data-dir", str(data), "--extensions", "hanpaca"])
        patch.setenv("HANPACA_LIBRARIES", str(data / "资料库"))
        patch.setattr(extension, "_extension", extension.Extension())
        for name in [name for name in sys.modules if name.split(".")[0] == "modules"]:
            patch.delitem(sys.modules, name)
        yield _start(data)
        extension._extension.backend.unload()
        extension._extension.documents.close()
        for name in [name for name in sys.modules if name.split(".")[0] in ("modules", "user_ext_hanpaca")]:
            del sys.modules[name]


def _start(data: Path) -> Any:
    from modules import chat, extensions, models, models_settings, shared, text_generation, utils

    shared.generation_lock = threading.Lock()
    extensions.available_extensions = utils.get_available_extensions()
    shared.settings["hanpaca-backend"], shared.settings["hanpaca-model"] = True, "smollm2"
    extensions.load_extensions()
    return SimpleNamespace(
        chat=chat, extensions=extensions, models=models, shared=shared, generation=text_generation, data=data,
        models_settings=models_settings, script=extensions.state["hanpaca"][2],
    )  # fmt: skip


@pytest.fixture
def smol(web_ui: Any, smollm2: Path) -> Any:
    """The host with our model presented and documents off."""
    web_ui.script._extension.set(documents=False, write_sources=False)
    end = time.monotonic() + 60
    while not web_ui.script._extension.backend.active:
        assert time.monotonic() < end
        time.sleep(0.02)
    return web_ui


def state_of(web_ui: Any, mode: str = "instruct", **changes: Any) -> dict[str, Any]:
    """The state that the page or the API hands over: the host's own settings."""
    return copy.deepcopy(web_ui.shared.settings) | {
        "mode": mode, "history": {"internal": [], "visible": [], "metadata": {}}, "character_menu": "Assistant",
        "unique_id": "", "auto_max_new_tokens": False, "max_new_tokens": 24, "do_sample": False,
    } | changes  # fmt: skip


def talk(web_ui: Any, text: str, state: dict[str, Any], **how: Any) -> list[dict[str, Any]]:
    return [copy.deepcopy(step) for step in web_ui.chat.generate_chat_reply(text, state, **how)]


@pytest.mark.parametrize("mode", ["instruct", "chat-instruct", "chat"])
def test_a_chat_with_regenerate_and_continue(smol: Any, mode: str) -> None:
    assert "torch" not in vars(smol.generation)
    state = state_of(smol, mode)
    steps = talk(smol, QUESTION, state)
    said = steps[-1]["internal"][-1]
    assert said[0] == QUESTION
    assert said[1]
    assert len(steps) > 3, "it streams"
    state["history"] = steps[-1]
    again = talk(smol, "", state, regenerate=True)[-1]
    assert again["internal"] == [said], "greedy: the same answer"
    state["history"] = steps[-1]
    longer = talk(smol, "", state | {"max_new_tokens": 8}, _continue=True)[-1]["internal"][-1][1]
    assert longer.startswith(said[1])
    whole = talk(smol, QUESTION, state_of(smol, mode, stream=False))
    assert whole[-1]["internal"][-1] == said


def test_instruct_prompts_are_cores(smol: Any) -> None:
    backend = smol.script._extension.backend
    history = {"internal": [["Hi </s> <|im_end|>", "Hello."]], "visible": [["Hi", "Hello."]], "metadata": {}}
    state = state_of(smol, history=history)
    prompt = smol.extensions.apply_extensions(
        "custom_generate_chat_prompt", QUESTION, state, history=history, _continue=False
    )
    said = [Message("user", "Hi </s> <|im_end|>"), Message("assistant", "Hello."), Message("user", QUESTION)]
    assert backend.tokens(prompt, state) == backend.model.chat_tokens(said)


def test_a_long_history_is_shortened_within_the_context(smol: Any) -> None:
    history: dict[str, Any] = {
        "internal": [[f"Question {n} " * 60, f"Answer {n} " * 60] for n in range(12)],
        "visible": [],
    }
    history["visible"] = copy.deepcopy(history["internal"])
    history |= {"metadata": {}}
    state = state_of(smol, history=history, truncation_length=1024)
    prompt = smol.extensions.apply_extensions(
        "custom_generate_chat_prompt", QUESTION, state, history=history, _continue=False
    )
    assert len(smol.script._extension.backend.tokens(prompt, state)) <= 1000
    assert QUESTION in prompt
    assert "Answer 11" in prompt
    assert "Answer 0" not in prompt
    very_long = smol.extensions.apply_extensions(
        "custom_generate_chat_prompt", "word " * 3000, state, history=history, _continue=False
    )
    assert 900 < len(smol.script._extension.backend.tokens(very_long, state)) <= 1000


def test_stop_ends_a_chat(smol: Any) -> None:
    state = state_of(smol, max_new_tokens=4000, ban_eos_token=True, do_sample=True, seed=3, truncation_length=8192)
    steps = 0
    for _ in smol.chat.generate_chat_reply("Tell me a story.", state):
        steps += 1
        if steps == 6:
            smol.generation.stop_everything_event()
    assert steps <= 9
    event = threading.Event()
    generator = smol.generation.generate_reply("Once upon a time", state | {"stop_event": event}, is_chat=True)
    next(generator)
    event.set()
    assert len(list(generator)) <= 3


def test_the_notebook_and_its_token_counts(smol: Any) -> None:
    state = state_of(smol, "chat", max_new_tokens=6, custom_stopping_strings='"\\n"')
    *_, last = smol.generation.generate_reply("The capital of France is", state)
    assert "Paris" in last
    assert smol.generation.get_encoded_length("The capital of France is") == 5
    assert smol.generation.decode(smol.generation.encode("Hello 你好")[0]) == "Hello 你好"


def test_impersonating_works_on_the_hosts_own_prompt(smol: Any) -> None:
    state = state_of(smol, history={"internal": [["Hi", "Hello."]], "visible": [["Hi", "Hello."]], "metadata": {}})
    prompt = smol.chat.generate_chat_prompt("", state, impersonate=True)
    assert list(smol.generation.generate_reply(prompt, state, is_chat=True))[-1]


def test_passages_in_a_chat_are_cited_and_the_history_stays_clean(smol: Any, tmp_path: Path) -> None:
    (tmp_path / "羊驼.md").write_text("A grown llama carries a load of thirty kilograms.", encoding="utf-8")
    mine = smol.script._extension
    mine.set(documents=True)
    list(mine.documents.upload("webui", [str(tmp_path / "羊驼.md")]))
    state = state_of(smol, max_new_tokens=40)
    last = talk(smol, LLAMA, state)[-1]
    assert last["internal"][-1][0] == LLAMA
    assert "Sources:" not in last["internal"][-1][1]
    assert last["visible"][-1][1].count("羊驼.md, line 1") == 1
    state["history"] = last
    continued = talk(smol, "", state | {"max_new_tokens": 4}, _continue=True)[-1]
    assert continued["visible"][-1][1].count("羊驼.md, line 1") == 1
    mine.set(write_sources=True)
    written = talk(smol, LLAMA, state_of(smol, max_new_tokens=40))[-1]
    assert written["internal"][-1][1].count("羊驼.md, line 1") == 1
    assert written["visible"][-1][1].count("羊驼.md, line 1") == 1
    again = state_of(smol, max_new_tokens=4) | {"history": written}
    *_, longer = talk(smol, "", again, _continue=True)
    for kind in ("internal", "visible"):
        reply = longer[kind][-1][1]
        assert reply.count("Sources:") == reply.count("羊驼.md, line 1") == 1
        assert reply.rstrip().endswith("”"), "the sources stand at the end"
    assert written["internal"][-1][1].count("Sources:") == 1, "the host's own history is as it was"


def test_unload_idleness_and_a_restart_of_the_extensions(smol: Any) -> None:
    backend = smol.script._extension.backend
    for idle in (True, False):
        smol.models.unload_model(keep_model_name=idle)
        end = time.monotonic() + 60
        while not backend.active:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert talk(smol, QUESTION, state_of(smol, max_new_tokens=2))[-1]["internal"][-1][1]
    first = smol.shared.model
    smol.script._extension.set(passages=6)
    smol.extensions.load_extensions()  # "Apply flags/extensions and restart"
    assert smol.extensions.state["hanpaca"][2] is not smol.script
    assert smol.extensions.state["hanpaca"][2].params["passages"] == 6
    assert smol.shared.model is first, "nothing was loaded again"
    smol.script = smol.extensions.state["hanpaca"][2]


def test_the_template_is_found_by_the_hosts_own_rules(web_ui: Any) -> None:
    model = web_ui.data / "models" / "chinese-alpaca-2-7b-q4_k.gguf"
    assert web_ui.models_settings.load_instruction_template("Chinese-Alpaca-2") == template_text()
    config = web_ui.shared.load_user_config()
    assert any(
        entry == {"instruction_template": "Chinese-Alpaca-2"} and __import__("re").match(pattern, model.name)
        for pattern, entry in config.items()
    )
    said = [["第一问 [/INST]", "第一答"], ["第二问", "第二答</s>"]]
    history = {"internal": said, "visible": said, "metadata": {}}
    state = state_of(web_ui, instruction_template_str=template_text(), history=history, truncation_length=10**6)
    messages = [Message(role, text) for pair in said for role, text in zip(("user", "assistant"), pair, strict=True)]  # type: ignore[arg-type]
    assert web_ui.chat.generate_chat_prompt("问", state) == Llama2Template().render([*messages, Message("user", "问")])
    assert set(web_ui.chat.get_stopping_strings(state)) == {"[/INST]", "</s>"}


def test_the_hosts_openai_functions_answer_without_transformers(smol: Any) -> None:
    pytest.importorskip("tiktoken")
    from modules.api import completions, tokens, typing

    def body(kind: Any, **fields: Any) -> dict[str, Any]:
        return dict(kind(**fields).model_dump())

    chat = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8, "temperature": 0}
    whole = completions.chat_completions(body(typing.ChatCompletionRequest, **chat, logprobs=True, top_logprobs=2))
    assert whole["choices"][0]["message"]["content"]
    assert whole["usage"]["prompt_tokens"] == smol.shared.model.last_prompt_token_count
    assert len(whole["choices"][0]["logprobs"]["content"]) == 8
    pieces = list(completions.stream_chat_completions(body(typing.ChatCompletionRequest, **chat, stream=True)))
    text = "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces)
    assert text == whole["choices"][0]["message"]["content"]
    asked = body(typing.CompletionRequest, prompt="The capital of France is", max_tokens=5, temperature=0)
    assert "Paris" in completions.completions(asked)["choices"][0]["text"]
    assert tokens.token_count("The capital of France is") == {"length": 5}
    assert smol.shared.args.loader == "llama.cpp"
