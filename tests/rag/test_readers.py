"""Reading text, Markdown, HTML and source code; places within a document; what is refused."""

from pathlib import Path

import pytest

from hanpaca.core.errors import BadInput, UnreadableDocument
from hanpaca.rag import readers
from hanpaca.rag.readers import FORMATS, Document, Mark, is_readable, read, read_bytes, reader_of


def headings(document: Document) -> list[tuple[str, int]]:
    return [(mark.label, mark.level) for mark in document.marks if mark.level]


def markdown(text: str) -> Document:
    return read_bytes(text.encode(), "a.md")


def html(body: str) -> Document:
    return read_bytes(f"<html><head><title>T</title></head><body>{body}</body></html>".encode(), "a.html")


# --- places


def test_places() -> None:
    text = "a\nb\nc\nd"
    marks = (
        Mark(0, "heading", "One", 1),
        Mark(2, "page", "1"),
        Mark(2, "heading", "Deep", 3),
        Mark(4, "page", "2"),
        Mark(4, "heading", "Two", 2),
        Mark(6, "page", ""),
        Mark(6, "heading", "Next", 1),
    )
    document = Document(text, marks)
    assert [document.line_at(offset) for offset in range(len(text) + 1)] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [document.page_at(offset) for offset in (0, 1, 2, 3, 4, 5, 6)] == [None, None, "1", "1", "2", "2", None]
    assert document.headings_at(1) == ("One",)
    assert document.headings_at(3) == ("One", "Deep")
    assert document.headings_at(4) == ("One", "Two")
    assert document.headings_at(6) == ("Next",)
    assert Document("x").headings_at(0) == () and Document("x").page_at(0) is None


# --- plain text


def test_line_ends_are_one_kind() -> None:
    document = read_bytes("一\r\n二\r三\n四".encode(), "a.txt")
    assert document.text == "一\n二\n三\n四"
    assert document.line_at(document.text.index("四")) == 4
    assert (document.kind, document.encoding) == ("text", "utf-8")


def test_chapters_of_plain_text_are_headings() -> None:
    text = "第一回 灵根育孕源流出\n正文第一回说到这里。\n第二回\n第三条 不是标题。\n  第三章　总则  \n第一节 一般规定\n"
    found = headings(read_bytes(text.encode(), "a.txt"))
    assert found == [("第一回 灵根育孕源流出", 2), ("第二回", 2), ("第三章　总则", 2), ("第一节 一般规定", 3)]


def test_source_code_is_kept() -> None:
    code = "# not a heading\ndef f():\n\treturn '第一章'\n"
    document = read_bytes(code.encode(), "a.py")
    assert (document.text, document.kind, document.marks) == (code, "code", ())


def test_encoding_override(tmp_path: Path) -> None:
    path = tmp_path / "文.txt"
    path.write_bytes("漢字".encode("big5"))
    assert read(path, encoding="big5").text == "漢字"
    assert read(path, encoding="big5").encoding == "big5"


# --- Markdown


def test_markdown_is_kept_and_headings_are_found() -> None:
    text = (
        "---\ntitle: '手册'\ntags: [a]\n---\n# 第一章 *入门* #\n\n```sh\n# not a heading\n```\n~~~~\n# nor\n~~~\n~~~~\n"
        "Setext title\n============\n\n## [链接](http://x) 与 `code` {#anchor}\n- item\n---\n#hashtag\n####### seven\n"
        "    # code\nSub\n---\n"
    )
    document = markdown(text)
    assert document.text == text
    assert document.title == "手册"
    assert headings(document) == [("第一章 *入门*", 1), ("Setext title", 1), ("链接 与 code", 2), ("Sub", 2)]
    for mark in document.marks:
        assert text[: mark.start].endswith("\n")
    assert document.line_at(document.marks[0].start) == 5


def test_markdown_title_is_the_first_heading() -> None:
    assert markdown("intro\n\n## Sub\n\n# Main\n\n# Other").title == "Main"


def test_an_unclosed_fence_hides_the_rest() -> None:
    assert headings(markdown("# A\n```\n# B\n# C")) == [("A", 1)]


def test_a_fence_within_a_line_opens_nothing() -> None:
    assert headings(markdown("```x``` is code\n# A")) == [("A", 1)]


# --- HTML


def test_html_text_is_what_a_reader_sees() -> None:
    document = html(
        "<nav>menu</nav><script>var x</script><style>p{}</style><div class='navheader'>prev</div>"
        "<div class='list-of-tables'>1.1 Tables</div>"
        "<h1>大<b>标题</b></h1><p>第一段，\n  有<em>强调</em>。<br>新行</p><ul><li>一</li><li><p>二</p></li></ul>"
        "<pre>  keep\n    this</pre><h2>Sub</h2>tail<!-- comment --> text<p hidden>secret</p>"
    )
    assert document.text == "大标题\n\n第一段， 有强调。\n新行\n- 一\n- 二\n\n  keep\n    this\n\nSub\n\ntail text"
    assert headings(document) == [("大标题", 1), ("Sub", 2)]
    assert document.headings_at(document.text.index("tail")) == ("大标题", "Sub")
    assert (document.title, document.kind) == ("T", "html")


def test_html_tables_are_rows() -> None:
    document = html("<table><tr><th>名</th><th>值</th></tr><tr><td>甲 <i>乙</i></td><td><p>1</p></td></tr></table>")
    assert document.text.strip() == "名 | 值\n甲 乙 | 1"
    assert [mark.kind for mark in document.marks] == ["table"]


def test_html_layout_tables_are_paragraphs_and_nested_ones_belong_to_their_cell() -> None:
    assert html("<table><tr><td><p>一</p><p>二</p></td></tr><tr><td>三</td></tr></table>").text.strip() == "一 二\n\n三"
    nested = html("<table><tr><td>a</td><td><table><tr><td>x</td><td>y</td></tr></table></td></tr></table>")
    assert nested.text.strip() == "a | x y"


@pytest.mark.parametrize("declared", ["gb2312", "GBK", "gb18030"])
def test_html_in_the_encoding_it_declares(declared: str) -> None:
    page = f"<html><head><meta charset='{declared}'></head><body><p>简体中文网页：镕、囍</p></body></html>"
    document = read_bytes(page.encode("gb18030"), "a.htm")
    assert "简体中文网页：镕、囍" in document.text and document.encoding == "gb18030"


def test_html_that_declares_a_wrong_encoding() -> None:
    page = "<meta charset='gb2312'><p>其实是统一码，羊驼生活在南美洲。</p>"
    assert "统一码" in read_bytes(page.encode(), "a.html").text
    big5 = "<meta charset='utf-8'><p>其實是繁體中文的網頁，沒有說對編碼。</p>".encode("big5")
    assert "繁體中文" in read_bytes(big5, "a.html").text


def test_html_broken_deep_and_odd() -> None:
    assert "x" in html("<div>" * 1500 + "x").text
    assert html("<p>before" + "<div>" * 50_000 + "x").warnings == (
        "the page nests deeper than any parser follows; what lies deeper is not read",
    )
    assert "好" in read_bytes("<p>好<td>坏</p></ul><li>".encode(), "a.html").text
    assert (
        "文"
        in read_bytes(
            '<?xml version="1.0" encoding="utf-8"?><html><body><p>文</p></body></html>'.encode(), "a.xhtml"
        ).text
    )
    with pytest.raises(UnreadableDocument, match="no text"):
        html("<script>only()</script>")


def test_real_html(data: Path) -> None:
    document = read(data / "docs/html/debian-reference-zh-cn/ch02.zh-cn.html")
    at = document.text.index("apt-cache policy")
    assert document.headings_at(at)[0].startswith("第 2 章")
    assert "上一页" not in document.text


# --- what is refused


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.md", b" \n\n", "holds no text"),
        ("picture.txt", b"\x89PNG\r\n\x1a\n\0\0\0", "PNG image"),
        ("noise.txt", bytes(range(256)) * 20, "binary"),
        ("fake.txt", b"%PDF-1.4\n", "PDF file"),
    ],
)
def test_unreadable(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableDocument, match=words) as caught:
        read(path)
    assert name in caught.value.problem and caught.value.hint and caught.value.exit_code == 2


def test_wrong_paths_and_types(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no file"):
        read(tmp_path / "missing.txt")
    with pytest.raises(BadInput, match="not a file"):
        read(tmp_path)
    for name, hint in (("a.doc", ".docx"), ("a.xls", ".xlsx"), ("a.jpg", "ocr"), ("a.exe", ".txt"), ("noext", ".txt")):
        with pytest.raises(BadInput, match="not read") as caught:
            reader_of(name)
        assert hint in caught.value.hint
    assert is_readable(Path("A.PDF")) and not is_readable(Path("a.exe"))


def test_a_file_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x" * 100)
    monkeypatch.setattr(readers, "MAX_BYTES", 99)
    with pytest.raises(UnreadableDocument, match="larger"):
        read(path)


def test_every_format_has_a_reader() -> None:
    for suffix in FORMATS:
        assert callable(reader_of(f"a{suffix}"))


def test_every_real_markdown_and_text_file(data: Path) -> None:
    for path in (data / "docs").rglob("*"):
        if path.suffix in (".md", ".txt") and "txt-encodings" not in path.parts:
            document = read(path)
            assert document.text == path.read_bytes().decode().replace("\r\n", "\n")
            assert not document.warnings
            assert all(document.text[: mark.start].endswith("\n") or mark.start == 0 for mark in document.marks)
