"""Word, PowerPoint, spreadsheets: made here with their own libraries, and real ones."""

import csv
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import docx
import openpyxl
import pptx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from PIL import Image

from hanpaca.core.errors import UnreadableDocument
from hanpaca.rag.readers import Document, read, read_bytes
from hanpaca.rag.reading import ocr


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def picture() -> io.BytesIO:
    return io.BytesIO(saved(lambda file: Image.new("RGB", (80, 60), "gray").save(file, "PNG")))


def headings(document: Document) -> list[tuple[str, int]]:
    return [(mark.label, mark.level) for mark in document.marks if mark.level]


# --- Word


def test_docx_in_its_order() -> None:
    made = docx.Document()
    made.core_properties.title = "合同"
    made.add_heading("总则", 1)
    made.add_paragraph("第一段。")
    table = made.add_table(2, 2)
    for cell, text in zip([cell for row in table.rows for cell in row.cells], ["名", "值", "甲", "1"], strict=True):
        cell.text = text
    made.add_heading("细则", 2)
    made.add_paragraph("项目", style="List Bullet")
    body = made.element.body
    control = f"<w:sdt {nsdecls('w')}><w:sdtContent><w:p><w:r><w:t>控件里的字</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    body.insert(1, parse_xml(control))
    change = (
        f"<w:p {nsdecls('w')}><w:ins><w:r><w:t>新增</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText>删除</w:delText></w:r></w:del>"
        "<w:r><w:t>后</w:t><w:br/><w:t>行</w:t></w:r></w:p>"
    )
    body.insert(len(body) - 1, parse_xml(change))
    document = read_bytes(saved(made.save), "a.docx")
    assert document.text == "总则\n\n控件里的字\n\n第一段。\n\n名 | 值\n甲 | 1\n\n细则\n\n项目\n\n新增后\n行"
    assert headings(document) == [("总则", 1), ("细则", 2)]
    assert (document.title, document.kind) == ("合同", "docx")


def test_docx_outline_level_and_chapters() -> None:
    made = docx.Document()
    made.add_paragraph("第一章 总则")
    made.add_paragraph("第一条 为了规范，制定本法。")
    assert headings(read_bytes(saved(made.save), "a.docx")) == [("第一章 总则", 2)]
    outlined = made.add_paragraph("自定标题")
    outlined._p.get_or_add_pPr().append(parse_xml(f'<w:outlineLvl {nsdecls("w")} w:val="2"/>'))
    assert headings(read_bytes(saved(made.save), "a.docx")) == [("自定标题", 3)]


def test_real_docx(data: Path) -> None:
    document = read(data / "docs/docx-made/劳动合同法.docx")
    at = document.text.index("第五十七条")
    assert document.headings_at(at) == ("第五章 特别规定", "第二节 劳务派遣")


# --- PowerPoint


def test_pptx_slides() -> None:
    made = pptx.Presentation()
    first = made.slides.add_slide(made.slide_layouts[1])
    first.shapes.title.text = "羊驼"
    first.placeholders[1].text = "生活在南美洲"
    first.notes_slide.notes_text_frame.text = "讲者备注"
    second = made.slides.add_slide(made.slide_layouts[5])
    table = second.shapes.add_table(2, 2, 0, 0, 914400, 914400).table
    for index, text in enumerate(["种", "数", "羊驼", "3"]):
        table.cell(index // 2, index % 2).text = text
    box = second.shapes.add_group_shape().shapes.add_textbox(0, 0, 914400, 914400)
    box.text_frame.text = "组内文字"
    document = read_bytes(saved(made.save), "a.pptx")
    assert document.text == "羊驼\n\n生活在南美洲\n\n讲者备注\n\n种 | 数\n羊驼 | 3\n\n组内文字"
    assert [document.page_at(document.text.index(word)) for word in ("生活", "讲者", "种", "组内")] == [
        "1",
        "1",
        "2",
        "2",
    ]
    assert headings(document) == [("羊驼", 1)]


def test_pictures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "is_available", lambda: False)
    slides = pptx.Presentation()
    slides.slides.add_slide(slides.slide_layouts[6]).shapes.add_picture(picture(), 0, 0)
    letter = docx.Document()
    letter.add_picture(picture())
    for content, name in ((saved(slides.save), "a.pptx"), (saved(letter.save), "a.docx")):
        with pytest.raises(UnreadableDocument, match="only pictures") as caught:
            read_bytes(content, name)
        assert "hanpaca[ocr]" in caught.value.hint
    letter.add_paragraph("短")
    assert "picture" in read_bytes(saved(letter.save), "a.docx").warnings[0]


# --- spreadsheets


def workbook(rows: list[list[object]], name: str = "数据") -> bytes:
    made = openpyxl.Workbook()
    made.active.title = name
    for row in rows:
        made.active.append(row)
    second = made.create_sheet("第二页")
    second.append(["只有一格"])
    made.create_sheet("空")
    return saved(made.save)


def test_xlsx_rows_carry_their_columns() -> None:
    document = read_bytes(workbook([["姓名", "年龄", "备注"], ["张三", 30.0, None], ["李四", 2.5, "行\n内"]]), "a.xlsx")
    assert document.text == (
        "姓名 | 年龄 | 备注\n姓名: 张三 | 年龄: 30\n姓名: 李四 | 年龄: 2.5 | 备注: 行 内\n\n只有一格"
    )
    assert document.page_at(document.text.index("李四")) == "数据"
    assert document.page_at(document.text.index("只有")) == "第二页"


def test_csv_lines_are_rows() -> None:
    document = read_bytes('名称,价格\n"羊驼, 白",3\n骆驼,\n\n马,5\n'.encode("gb18030"), "a.csv")
    assert document.text == "名称 | 价格\n名称: 羊驼, 白 | 价格: 3\n名称: 骆驼\n\n名称: 马 | 价格: 5"
    assert document.line_at(document.text.index("马")) == 5
    assert document.encoding == "gb18030"


@pytest.mark.parametrize(("delimiter", "name"), [(";", "a.csv"), ("\t", "a.csv"), ("|", "a.csv"), ("\t", "a.tsv")])
def test_csv_delimiters(delimiter: str, name: str) -> None:
    rows = [["名", "说明"], ["甲", "一，二"], ["乙", "三"]]
    document = read_bytes("\n".join(map(delimiter.join, rows)).encode(), name)
    assert document.text.split("\n")[1] == "名: 甲 | 说明: 一，二"


def test_csv_without_a_header() -> None:
    assert read_bytes(b"1,2\n3,4\n", "a.csv").text == "1 | 2\n3 | 4"


def test_csv_with_a_cell_over_the_module_limit() -> None:
    content = b'a,b\n1,"' + b"x" * (csv.field_size_limit() + 1) + b'"\n'
    document = read_bytes(content, "a.csv")
    assert document.text.startswith("a,b\n1,") and "plain text" in document.warnings[0]


def test_real_tables(data: Path) -> None:
    folder = data / "docs/office-chatchat"
    for name in ("langchain-ChatGLM_open.csv", "langchain-ChatGLM_open.xlsx"):
        assert "title: 效果如何优化 | file: 2023-04-04.00" in read(folder / name).text


# --- broken


def with_member(name: str, content: bytes) -> bytes:
    """A ZIP that holds one stray part."""

    def save(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, content)

    return saved(save)


@pytest.mark.parametrize("suffix", ["docx", "pptx", "xlsx"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nothing of the kind", "broken"),
        (b"PK\x03\x04" + b"cut short", "broken"),
        (with_member("stray.txt", b"x"), "broken"),
        (with_member("[Content_Types].xml", b"<Types"), "broken"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "encrypted"),
    ],
    ids=["text", "cut", "other zip", "bad xml", "encrypted"],
)
def test_broken_office_files(suffix: str, content: bytes, words: str) -> None:
    with pytest.raises(UnreadableDocument, match=words) as caught:
        read_bytes(content, f"a.{suffix}")
    assert caught.value.hint
