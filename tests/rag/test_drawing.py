"""Pages of PDFs as pictures: the right page, and boxes over exactly the text that was quoted."""

import io
from pathlib import Path

import numpy as np
import pytest
from making import pdf, shown
from PIL import Image

from hanpaca.core.errors import BadInput, UnreadableDocument
from hanpaca.rag.drawing import draw, find

QUOTE = "A grown llama carries thirty kilograms of load."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    first, second = "Llamas live in the Andes.", "They graze at four thousand metres."
    (path := tmp_path / "llamas.pdf").write_bytes(
        pdf([shown(first, second), shown(second, "A grown llama carries", "thirty kilograms of load.", first)])
    )
    return path


def test_the_boxes_cover_the_ink_of_the_quotation_and_of_nothing_else(path: Path) -> None:
    drawn = draw(path, 2, QUOTE)
    assert (drawn.page, drawn.pages) == (2, 2) and " ".join(drawn.marked.split()) == QUOTE
    picture = Image.open(io.BytesIO(drawn.png)).convert("L")
    assert picture.size == (drawn.width, drawn.height)
    tops = [top for _, top, _, _ in drawn.rectangles]
    assert min(tops) > 0.09 and max(tops) < 0.15  # lines two and three of four, 16 points apart, from 72 of 792 on
    for left, top, right, bottom in drawn.rectangles:
        sides = (left * drawn.width, top * drawn.height, right * drawn.width, bottom * drawn.height)
        x0, y0, x1, y1 = map(round, sides)
        assert np.asarray(picture.crop((x0, y0, x1, y1))).min() < 128, "there is no ink under a box"


def test_a_page_without_the_quotation_is_drawn_without_boxes(path: Path) -> None:
    drawn = draw(path, 1, QUOTE)
    assert (drawn.marked, drawn.rectangles) == ("", ()) and drawn.png.startswith(b"\x89PNG")


def test_a_quotation_over_two_pages_is_marked_on_both() -> None:
    assert find("…the last words begin", "words begin and end") == (10, 21)
    assert find("and end. More", "words begin and end.") == (0, 8)
    assert find("nothing of it", "words begin and end.") is None


def test_what_cannot_be_drawn_is_told(path: Path) -> None:
    with pytest.raises(BadInput, match="It has 2"):
        draw(path, 3)
    path.write_bytes(b"%PDF-1.7\nnothing")
    with pytest.raises(UnreadableDocument, match="Read its text instead"):
        draw(path, 1)
