"""PDF: pages, joined lines, outlines; scans, lost fonts, passwords and broken files."""

import importlib.util
import re
from itertools import pairwise
from pathlib import Path

import pypdfium2
import pytest
from making import PICTURE, codes, pdf, shown

from hanpaca.core.errors import UnreadableDocument
from hanpaca.rag.readers import Document, read, read_bytes
from hanpaca.rag.reading import ocr
from hanpaca.rag.reading.headings import from_outline
from hanpaca.rag.reading.lines import join_lines, usual_width


@pytest.fixture
def without_ocr(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without the extra."""
    monkeypatch.setattr(ocr, "is_available", lambda: False)


@pytest.fixture(scope="module")
def manual(data: Path) -> Document:
    return read(data / "docs/pdf/debian-reference.zh-cn.pdf")


def bare(text: str) -> str:
    return re.sub(r"\s|\ufffe", "", text)


def test_page_numbers_are_right(data: Path, manual: Document) -> None:
    """Forty lines of forty pages, as pypdfium2 itself gives them, are found on that page and no other."""
    looked = pypdfium2.PdfDocument(data / "docs/pdf/debian-reference.zh-cn.pdf")
    pages: dict[str, str] = {}
    starts = [mark.start for mark in manual.marks if mark.kind == "page"] + [len(manual.text)]
    for number, (start, end) in enumerate(pairwise(starts), 1):
        assert manual.page_at(start) == str(number) or start == end
        pages[str(number)] = bare(manual.text[start:end])
    assert len(pages) == len(looked) == 251
    for index in range(28, 251, 6):
        lines = looked[index].get_textpage().get_text_range().split("\r\n")
        line = bare(max(lines[1:], key=len))
        assert line in pages[str(index + 1)]
    looked.close()


def test_answers_stand_on_their_pages(manual: Document) -> None:
    at = manual.text.index("在默认的 Debian 系统中，有 6 个可切换的类 VT100")
    assert manual.page_at(at) == "31"
    assert manual.headings_at(at) == ("GNU/Linux 教程", "1.1 控制台基础", "1.1.6 虚拟控制台")


def test_broken_lines_are_joined(manual: Document) -> None:
    assert "每一个字符控制台都允许独立登录账户并提供多用户环境。" in manual.text
    assert "（例如 gnome-terminal(1)、rxvt(1) 或 xterm(1)）" in manual.text
    assert "# chvt 3\n" in manual.text  # commands stay lines of their own


def test_running_lines_are_gone(manual: Document) -> None:
    assert "/ 223" not in manual.text
    assert manual.title == "Debian 参考手册"


def test_english_hyphens_are_undone(data: Path) -> None:
    document = read(data / "docs/pdf/debmake-doc.en.pdf")
    assert "easily and effectively to maximize the output" in document.text
    assert "\ufffe" not in document.text


def test_pages_of_a_small_pdf() -> None:
    document = read_bytes(pdf([shown("Hello world.", "Second line"), "", shown("Third page")], title="标题"), "a.pdf")
    assert document.text == "Hello world.\nSecond line\n\nThird page"
    assert [document.page_at(document.text.index(word)) for word in ("Hello", "Second", "Third")] == ["1", "1", "3"]
    assert (document.title, document.kind, document.warnings) == ("标题", "pdf", ())


def test_running_lines_need_four_pages() -> None:
    pages = [shown(f"Annual report {number}", f"Body of page {number}", "Confidential") for number in range(1, 6)]
    assert "Annual" not in read_bytes(pdf(pages), "a.pdf").text
    assert "Confidential" not in read_bytes(pdf(pages), "a.pdf").text
    assert "Annual" in read_bytes(pdf(pages[:3]), "a.pdf").text


@pytest.mark.usefixtures("without_ocr")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pdf([PICTURE, PICTURE]), "no text on any of its 2 page"),
        (pdf([""]), "no text"),
        (pdf([shown("secret")], encrypted=True), "encrypted"),
        (pdf([shown("text")])[:400], "broken"),
        (b"%PDF-1.7\nnothing", "broken"),
        (pdf([codes(list(range(0x100, 0x150)))], font="cid"), "garbled"),
        (
            pdf([codes([ord(char) - 29 for char in "This is a test of a font that lost its table"])], font="cid"),
            "garbled",
        ),
        (pdf([codes([0x4E00 + 37 * step for step in range(80)])], font="cid"), "garbled"),
    ],
    ids=["scan", "empty", "encrypted", "cut", "junk", "lost font", "shifted codes", "lost chinese font"],
)
def test_unreadable(content: bytes, words: str) -> None:
    with pytest.raises(UnreadableDocument, match=words) as caught:
        read_bytes(content, "a.pdf")
    assert caught.value.hint
    if "text" in words or words == "garbled":
        assert "hanpaca[ocr]" in caught.value.hint


@pytest.mark.usefixtures("without_ocr")
def test_pages_that_stay_unread_are_named() -> None:
    text = shown("A page with enough words on it to be a page of text, not a scan.")
    document = read_bytes(pdf([text, PICTURE, text, PICTURE]), "a.pdf")
    assert document.warnings == (f"page(s) 2, 4: a picture and hardly any text; the picture is not read. {ocr.HINT}",)


@pytest.mark.usefixtures("without_ocr")
def test_real_scan_says_so(data: Path) -> None:
    document = read(data / "docs/office-chatchat/ocr_test.pdf")
    assert document.text == "我是文字" and "picture" in document.warnings[0]


@pytest.mark.usefixtures("without_ocr")
def test_a_pdf_that_holds_only_a_notice(data: Path) -> None:
    """debian-faq.zh-cn.pdf is one English sentence, in a font without a table to Unicode, which PDFium guesses well."""
    document = read(data / "docs/pdf/debian-faq.zh-cn.pdf")
    assert "currently not available" in document.text.replace("\n", " ")
    assert document.page_at(0) == "1"


@pytest.mark.skipif(importlib.util.find_spec("rapidocr") is None, reason="needs the extra ocr")
def test_scans_are_recognised_offline(data: Path) -> None:
    for name in ("ocr_test.pdf", "ocr_test.docx", "ocr_test.pptx"):
        document = read(data / "docs/office-chatchat" / name)
        assert "横向文本框" in document.text and "English text" in document.text, name
        assert "我是文字" in document.text and not document.warnings


# --- joining lines


def join(*lines: str) -> str:
    return join_lines(lines, usual_width([["一" * 30, *lines]] * 3))


def test_chinese_joins_without_a_space_english_with_one() -> None:
    assert (
        join("他在这里说明了一个很长的句子它被排版断" + "成" * 10, "两行。")
        == "他在这里说明了一个很长的句子它被排版断" + "成" * 10 + "两行。"
    )
    english = "this line is as wide as the column of sixty letters it is in"
    assert join(english, "and goes on") == english + " and goes on"
    assert join("使用下面这个命令可以列出系统中所有已经安装的软件包也就是", "dpkg -l") == (
        "使用下面这个命令可以列出系统中所有已经安装的软件包也就是 dpkg -l"
    )


def test_what_is_not_joined() -> None:
    full = "这一行正好排满了整个版面的宽度因此它可能在下一行继续写下去"
    assert join(full + "。", "新的段落") == full + "。\n新的段落"
    assert join(full, "• 列表") == full + "\n• 列表"
    assert join(full, "1.2 标题") == full + "\n1.2 标题"
    assert join("短行", "另一行") == "短行\n另一行"
    assert join("", "") == ""


# --- outlines


def test_outline_titles_are_found_on_their_pages() -> None:
    text = "目录 安装 … 5\n\n1.1 安装\n这里说安装。\n1.2 使用\n这里说使用。"
    second = text.index("1.1")
    outline = [(1, 0, "安装"), (1, 1, " 使用 "), (1, 1, "不存在"), (9, 0, "页码错误"), (0, 0, "倒退")]
    marks = list(from_outline(text, [0, second], outline))
    assert [(mark.label, mark.level) for mark in marks] == [("1.1 安装", 1), ("1.2 使用", 2), ("不存在", 2)]
    assert [text[mark.start :].split("\n")[0] for mark in marks[:2]] == ["1.1 安装", "1.2 使用"]
