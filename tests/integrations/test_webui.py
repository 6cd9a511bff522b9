"""The web UI's extension as the host meets it: script.py, its hooks, and the model behind them. The host is a fake."""

from __future__ import annotations

import inspect
import itertools
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from webui_fakes import FakeHost, host, load_script, state_of
from webui_models import kept, llama2, prompt_of

from hanpaca.core.chat import Message
from hanpaca.core.errors import BadInput, ContextOverflow
from hanpaca.integrations.webui.settings import Settings, read
from hanpaca.integrations.webui.template import FOLDER

__all__ = ["host", "kept", "llama2"]


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# -- script.py -------------------------------------------------------------------------------------------------------


def test_the_script_is_thin_and_has_no_hook_while_it_is_idle(host: FakeHost) -> None:
    script = load_script()
    assert len((FOLDER / "script.py").read_text(encoding="utf-8").splitlines()) < 90
    for name in ("custom_generate_reply", "custom_generate_chat_prompt", "output_modifier"):
        assert not hasattr(script, name)
    assert all(isinstance(value, str | int | bool) for value in script.params.values())


def test_it_loads_from_the_old_folder_too(host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "extensions" / "hanpaca"
    folder.mkdir(parents=True)
    (folder / "script.py").write_bytes((FOLDER / "script.py").read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "extensions", raising=False)
    loaded = __import__("extensions.hanpaca.script", fromlist=["params"])
    loaded.setup()
    assert loaded.params["display_name"] == "Hanpaca"
    for name in ("extensions", "extensions.hanpaca", "extensions.hanpaca.script"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_missing_package_is_told_in_the_tab_and_stops_nothing(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hanpaca.integrations.webui.extension", None)
    shown: list[str] = []
    gradio = ModuleType("gradio")
    gradio.Markdown = shown.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    script = load_script()
    script.ui()
    assert 'pip install "hanpaca[webui]"' in shown[0]
    assert not hasattr(script, "custom_generate_reply")


def test_a_model_that_is_gone_stops_nothing_and_is_told(host: FakeHost) -> None:
    script = load_script(backend=True, model="/no/such/model.gguf")
    assert host.shared.model is None
    assert any("model.gguf" in problem for problem in script._extension.problems)
    assert not hasattr(script, "custom_generate_reply")


def test_values_that_cannot_be_are_told_and_replaced(host: FakeHost) -> None:
    script = load_script(passages="many", context=-3, documents="yes")
    assert script._extension.settings == Settings()
    assert len(script._extension.problems) == 3


def test_settings_survive_saving_loading_and_a_restart_of_the_page(host: FakeHost) -> None:
    script = load_script()
    before = script.params
    kept = dict(before)
    script._extension.set(passages=7, library="合同")
    assert before == kept, "the host compares with the same object: it must not have changed"
    assert script.params is not before
    saved = yaml.safe_load(yaml.dump(script.params, allow_unicode=True))
    assert saved == script.params
    again = load_script()  # the host's restart runs the file anew
    assert again._extension is script._extension
    assert again._extension.settings.passages == 7
    assert read(saved)[0].library == "合同"


# -- the model behind it -----------------------------------------------------------------------------------------------


def test_it_answers_as_the_host_asks(host: FakeHost, smollm2: Path) -> None:
    script = load_script(backend=True, model="smollm2")
    assert type(host.shared.model).__name__ == "LlamaServer"
    assert host.shared.args.loader == "llama.cpp"
    assert host.shared.tokenizer is host.shared.model
    assert "<|im_start|>" in host.shared.settings["instruction_template_str"]
    assert list(inspect.signature(script.custom_generate_reply).parameters)[:4] == [
        "question", "original_question", "state", "stopping_strings",
    ]  # fmt: skip
    state = state_of(host)
    prompt = prompt_of(script, "What is the capital of France?", state)
    replies = list(script.custom_generate_reply(prompt, prompt, state, None, is_chat=True))
    assert len(replies) > 3
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(replies))
    model = script._extension.backend.model
    assert script._extension.backend.tokens(prompt, state) == model.chat_tokens(
        [Message("user", "What is the capital of France?")]
    )
    assert host.shared.model.last_prompt_token_count == len(script._extension.backend.tokens(prompt, state))
    once = list(script.custom_generate_reply(prompt, prompt, state | {"stream": False}, None, is_chat=True))
    assert once == [replies[-1]]


@pytest.mark.parametrize("how", ["stop_everything", "stop_event", "close"])
def test_stop_stops(host: FakeHost, smollm2: Path, how: str) -> None:
    script = load_script(backend=True, model="smollm2")
    event = threading.Event()
    state = state_of(host, max_new_tokens=4000, ban_eos_token=True, stop_event=event, do_sample=True, seed=1)
    replies = script.custom_generate_reply("Once upon a time", "", state, None, is_chat=True)
    next(replies)
    engine = script._extension.backend.model.engine
    begun = engine.computed  # the weights' own count: other tests of a run use them too
    if how == "close":
        replies.close()
    elif how == "stop_event":
        event.set()
    else:
        host.shared.stop_everything = True
    assert len(list(replies)) <= 1

    def still() -> bool:
        before = engine.computed
        time.sleep(0.3)
        return engine.computed == before

    wait_for(still)
    assert engine.computed - begun < 2000, "the engine went on to the end"


def test_stop_texts_seed_and_length_are_followed(host: FakeHost, smollm2: Path) -> None:
    script = load_script(backend=True, model="smollm2")
    state = state_of(host, do_sample=True, temperature=1.0, seed=7, max_new_tokens=12, ban_eos_token=True)

    def say(**changes: Any) -> str:
        return list(script.custom_generate_reply("Count: one, two,", "", {**state, **changes}, None, is_chat=True))[-1]

    first = say()
    assert say() == first
    assert len({say(seed=number) for number in (1, 2, 3)}) > 1
    assert host.shared.model.last_completion_token_count == 12
    stop = first.strip()[3:6]
    assert stop not in say(custom_stopping_strings=repr(stop))
    assert script._extension.backend.ignored == []
    say(xtc_probability=0.5)
    assert script._extension.backend.ignored == ["xtc_probability=0.5"]


def test_it_never_takes_the_place_of_the_users_model(host: FakeHost, smollm2: Path) -> None:
    own = object()
    host.shared.model, host.shared.model_name = own, "mine.gguf"
    script = load_script(backend=True, model="smollm2")
    assert host.shared.model is own
    assert not hasattr(script, "custom_generate_reply")
    with pytest.raises(BadInput, match=r"mine\.gguf"):
        script._extension.backend.load("smollm2")
    host.shared.model = None  # put to sleep: the host means to wake it by its name
    with pytest.raises(BadInput, match=r"mine\.gguf"):
        script._extension.backend.load("smollm2")


@pytest.mark.parametrize("idle", [False, True])
def test_after_the_hosts_unload_it_is_presented_again(host: FakeHost, smollm2: Path, idle: bool) -> None:
    script = load_script(backend=True, model="smollm2")
    backend, first = script._extension.backend, host.shared.model
    host.unload_model(keep_model_name=idle)
    assert not backend.is_loaded, "the weights are freed"
    wait_for(lambda: backend.active)
    assert host.shared.model is not first
    assert host.shared.model_name == "hanpaca: smollm2"
    assert list(script.custom_generate_reply("Hello", "", state_of(host, max_new_tokens=2), None, is_chat=True))


def test_it_stands_aside_for_a_model_that_the_user_loads(host: FakeHost, smollm2: Path) -> None:
    script = load_script(backend=True, model="smollm2")
    before = dict(host.shared.settings)
    host.unload_model()
    host.shared.model, host.shared.model_name = object(), "mine.gguf"
    time.sleep(1.5)
    assert host.shared.model_name == "mine.gguf"
    assert not hasattr(script, "custom_generate_reply")
    assert host.shared.args.loader is None
    assert host.shared.settings != before, "the host's own settings are back"


def test_unloading_gives_the_host_back_what_it_had(host: FakeHost, smollm2: Path) -> None:
    settings = dict(host.shared.settings)
    script = load_script(backend=True, model="smollm2", context=1024)
    assert host.shared.settings["truncation_length"] == 1024
    script._extension.backend.unload()
    assert host.shared.settings == settings
    assert (host.shared.model, host.shared.model_name, host.shared.bos_token) == (None, "None", "<s>")
    assert host.shared.args.loader is None


def test_too_long_a_prompt_of_a_person_loses_its_beginning(host: FakeHost, smollm2: Path) -> None:
    script = load_script(backend=True, model="smollm2", context=256)
    state = state_of(host, max_new_tokens=16, truncation_length=8192)
    list(script.custom_generate_reply("word " * 900, "", state, None, is_chat=False))
    assert host.shared.model.last_prompt_token_count == 240
    with pytest.raises(ContextOverflow, match="max_new_tokens"):
        list(script.custom_generate_reply("word", "", state | {"max_new_tokens": 256}, None, is_chat=True))


def test_the_answer_is_not_stretched_beyond_the_window_by_the_automatic_length(host: FakeHost, llama2: Path) -> None:
    script = load_script(backend=True, model=str(llama2), context=1500)
    state = state_of(host, auto_max_new_tokens=True, max_new_tokens=100)
    backend = script._extension.backend
    assert backend._fit(backend.model, [1] * 100, state) == ([1] * 100, 412)
    assert backend._fit(backend.model, [1] * 500, state)[1] == 100
    assert backend._fit(backend.model, [1] * 600, state)[1] == 900


def test_next_tokens_and_encoding_for_the_hosts_views(host: FakeHost, smollm2: Path) -> None:
    load_script(backend=True, model="smollm2")
    stand_in = host.shared.model
    likeliest = stand_in.get_logits("The capital of France is", {}, n_probs=5)
    assert " Paris" in [one["token"] for one in likeliest]
    assert len(likeliest) == 5
    ids = stand_in.encode("你好，世界")
    assert stand_in.decode(ids) == "你好，世界"
