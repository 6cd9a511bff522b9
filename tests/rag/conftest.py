"""A library of four short documents about countries, which tests of a module share."""

from collections.abc import Iterator

import pytest
from scripted import CAPITALS

from hanpaca.rag import Library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    with Library.open(tmp_path_factory.mktemp("library")) as opened:
        for name, text in CAPITALS:
            opened.add_text(text, name, embed=False)
        opened.embed_pending()
        yield opened
