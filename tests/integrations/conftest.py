"""What modules share: a tiny model, a server, and the page in a real Chromium, whose tests skip where there is none."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loops import ENDLESS, chatml_model
from pages import Watched
from servers import Running, serving

import hanpaca

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("background-networking", "component-update", "sync", "gpu", "domain-reliability", "default-apps")
"""What a browser does by itself, and what asks other machines."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chatml_model(tmp_path_factory.mktemp("tiny") / "chatml.gguf")


@pytest.fixture(scope="module")
def counting() -> Iterator[Any]:
    """The model that an adapter's answers and counts are compared with."""
    with hanpaca.load("smollm2", threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def running(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """SmolLM2 behind the server; modules that want another one have a fixture of this name of their own."""
    model = hanpaca.load("smollm2", threads=1)
    with serving(model, library_folder=tmp_path_factory.mktemp("server") / "library") as server:
        yield server


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[Any]:
    """OpenAI's own client of it."""
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=running.api, api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Of one module: while Playwright is open this thread has a running loop, and no asynchronous test can run."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    switches = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=switches)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("page")
    with serving(hanpaca.load("smollm2", threads=1), library_folder=folder / "library") as server:
        yield server


@pytest.fixture
def page(browser: Any, page_server: Running) -> Iterator[Any]:
    """The page in Chinese; the test fails where a script fails, a dialog opens, or another host is asked."""
    watched = Watched(browser, page_server.url)
    yield watched.open()
    watched.context.close()
    assert not watched.wrong


@pytest.fixture
def endless(page: Any) -> Any:
    """A page whose answers go on until they are stopped."""

    def change(route: Any) -> None:
        body = route.request.post_data_json | {"logit_bias": {str(token): -100 for token in ENDLESS}}
        route.continue_(post_data=json.dumps(body | {"max_tokens": 3000}))

    page.route("**/v1/chat/completions", change)
    return page
