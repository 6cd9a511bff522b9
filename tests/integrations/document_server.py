"""A server with SmolLM2, a library of its own, and a folder for named ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Running, serving

import hanpaca
import hanpaca.rag

CHINESE = "羊驼生活在安第斯山脉，海拔四千米。\n\n成年羊驼可以驮运三十公斤的货物，每天走二十公里。\n"
ENGLISH = "Llamas live in the Andes at four thousand metres.\n\nA grown llama carries a load of thirty kilograms.\n"
QUESTION = "成年羊驼可以驮运多少公斤？"


@pytest.fixture(scope="module")
def running(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("documents")
    model = hanpaca.load("smollm2", threads=1)
    with serving(model, library_folder=folder / "library", libraries_root=folder / "named") as server:
        yield server
