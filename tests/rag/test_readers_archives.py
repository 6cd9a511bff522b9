"""EPUB and ZIP: reading order, names, limits, bombs."""

import io
import zipfile
from pathlib import Path

import pytest

from hanpaca.core.errors import UnreadableDocument
from hanpaca.rag import Library, answer
from hanpaca.rag.readers import read, read_bytes
from hanpaca.rag.reading import zips

CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OPS/b.opf"/></rootfiles></container>'
)
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:title>小书</dc:title></metadata><manifest>
<item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="two" href="%E4%BA%8C.xhtml" media-type="application/xhtml+xml"/>
<item id="one" href="sub/one.xhtml" media-type="application/xhtml+xml"/>
<item id="gone" href="gone.xhtml" media-type="application/xhtml+xml"/>
<item id="css" href="a.css" media-type="text/css"/></manifest>
<spine><itemref idref="n"/><itemref idref="one"/><itemref idref="two"/><itemref idref="gone"/></spine></package>"""


def zipped(members: dict[str, bytes | str], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def book(**more: str) -> dict[str, bytes | str]:
    page = "<html><body><h1>{}</h1><p>{}</p></body></html>"
    return {
        "META-INF/container.xml": CONTAINER,
        "OPS/b.opf": PACKAGE,
        "OPS/nav.xhtml": page.format("目录", "一 二"),
        "OPS/sub/one.xhtml": page.format("第一篇", "开头。"),
        "OPS/二.xhtml": page.format("第二篇", "结尾。"),
        **more,
    }


# --- EPUB


def test_epub_in_reading_order() -> None:
    document = read_bytes(zipped(book()), "a.epub")
    assert document.text.strip() == "第一篇\n\n开头。\n\n第二篇\n\n结尾。"
    assert document.headings_at(document.text.index("结尾")) == ("第二篇",)
    assert (document.title, document.kind) == ("小书", "epub")
    assert document.warnings == ("OPS/gone.xhtml: named in the book's table, but missing or empty",)


def test_real_epub(data: Path) -> None:
    document = read(data / "docs/epub/debmake-doc.zh-cn.epub")
    at = document.text.index("您便是本篇指南的目标读者")
    assert document.headings_at(at)[-1] == "前言"
    assert document.title == "Debian 维护者指南"


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "missing or broken"),
        ({"META-INF/container.xml": "<a>"}, "missing or broken"),
        ({"META-INF/container.xml": CONTAINER}, "missing or broken"),
        (book(**{"META-INF/rights.xml": "<rights/>"}), "copy protection"),
    ],
)
def test_broken_books(members: dict[str, bytes | str], words: str) -> None:
    with pytest.raises(UnreadableDocument, match=words):
        read_bytes(zipped(members), "a.epub")


# --- ZIP


def test_zip_members_are_sections() -> None:
    inner: dict[str, bytes | str] = {
        "文档/说明.md": "# 安装\n\n用 make 安装。",
        "a.html": "<h2>Page</h2><p>text</p>",
        "old.txt": "简体中文的旧文件，编码是国标。".encode("gb18030"),
        "__MACOSX/._a": b"litter",
        ".git/config.txt": "hidden",
        "picture.jpg": b"\xff\xd8\xff",
        "empty.txt": "",
        "more.zip": zipped({"x.txt": "x"}),
    }
    document = read_bytes(zipped(inner), "a.zip")
    assert document.headings_at(document.text.index("make")) == ("文档/说明.md", "安装")
    assert document.headings_at(document.text.index("text")) == ("a.html", "Page")
    assert "编码是国标" in document.text and "hidden" not in document.text
    said = "\n".join(document.warnings)
    assert "picture.jpg" in said and "empty.txt: is empty" in said and "more.zip" in said and "litter" not in said


def test_pages_end_with_their_member(data: Path) -> None:
    pdf = (data / "docs/office-chatchat/langchain.pdf").read_bytes()
    document = read_bytes(zipped({"a.pdf": pdf, "b.txt": "after the pages"}), "a.zip")
    at = document.text.index("after the pages")
    assert document.page_at(at) is None and document.headings_at(at) == ("b.txt",)
    assert document.page_at(at - 100) == "8"


def test_a_citation_names_the_member_and_its_own_line(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {
        "说明.txt": "压缩包说明\n本压缩包由赵敏整理。\n",
        "城市.csv": "城市,人口\n成都,2119万\n重庆,3212万\n",
        "deck.pptx": _deck("Fruit", "A pomelo weighs two kilograms."),
    }
    (tmp_path / "混合.zip").write_bytes(zipped(members))
    with Library.open(tmp_path / "library") as library:
        library.sync([tmp_path / "混合.zip"], embed=False)
        for question, place, quote in (
            ("谁整理了本压缩包？", "说明.txt, line 2", "本压缩包由赵敏整理。"),
            ("重庆的人口是多少？", "城市.csv, line 3", "城市: 重庆 | 人口: 3212万"),
            ("How much does a pomelo weigh?", "deck.pptx, slide 1", "A pomelo weighs two kilograms."),
        ):
            cited = answer(library, None, question, abstain=False).citations[0]
            assert (cited.place, cited.quote) == (place, quote)
        wide = library.search("赵敏", k=1, neighbours=3)[0]
        assert "成都" not in wide.text, "neighbours end with the member: another file is cited by another name"


def _deck(title: str, text: str) -> bytes:
    import pptx

    deck, file = pptx.Presentation(), io.BytesIO()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text, slide.placeholders[1].text = title, text
    deck.save(file)
    return file.getvalue()


def test_names_in_the_packer_s_encoding() -> None:
    raw = zipped({"xxxx.txt": "正文"})
    assert raw.count(b"xxxx.txt") == 2
    document = read_bytes(raw.replace(b"xxxx.txt", "说明".encode("gbk") + b".txt"), "a.zip")
    assert document.headings_at(1) == ("说明.txt",)


def test_archives_without_anything_to_read() -> None:
    archives: list[dict[str, bytes | str]] = [{}, {"a.jpg": b"\xff\xd8"}, {"a.txt": ""}]
    for members in archives:
        with pytest.raises(UnreadableDocument, match="no file that can be read"):
            read_bytes(zipped(members), "a.zip")


def test_bombs_are_not_unpacked() -> None:
    bomb = zipped({"a.txt": b"0" * (80 << 20)})
    assert len(bomb) < 100_000
    for name in ("a.zip", "a.docx", "a.epub", "a.xlsx", "a.pptx"):
        with pytest.raises(UnreadableDocument, match="over the limit"):
            read_bytes(bomb, name)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped({"a.txt": "one", "b.txt": "two"})
    monkeypatch.setattr(zips, "MAX_MEMBERS", 1)
    with pytest.raises(UnreadableDocument, match="over the limit"):
        read_bytes(content, "a.zip")
    monkeypatch.setattr(zips, "MAX_MEMBERS", 9)
    monkeypatch.setattr(zips, "MAX_TOTAL", 5)
    with pytest.raises(UnreadableDocument, match="over the limit"):
        read_bytes(content, "a.zip")


def test_a_member_that_lies_about_its_size() -> None:
    """The central directory says 3 bytes; what unpacks beyond is not read."""
    raw = bytearray(zipped({"a.txt": b"0123456789" * 1000}))
    at = raw.index(b"PK\x01\x02")
    raw[at + 24 : at + 28] = (3).to_bytes(4, "little")
    with pytest.raises(UnreadableDocument, match="broken"):
        read_bytes(bytes(raw), "a.zip")


def test_encrypted_and_damaged_members() -> None:
    raw = bytearray(zipped({"a.txt": "words " * 100}))
    locked = raw.copy()
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(signature) + offset] |= 1
    with pytest.raises(UnreadableDocument, match="encrypted"):
        read_bytes(bytes(locked), "a.zip")
    raw[40:48] = b"\xff" * 8
    with pytest.raises(UnreadableDocument, match="broken"):
        read_bytes(bytes(raw), "a.zip")
