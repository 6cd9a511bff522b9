"""Bytes → text: the rule on real files and on short samples, and what is refused."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanpaca.core.encodings import common_share, decode
from hanpaca.core.errors import BadInput, HanpacaError, UnreadableDocument

FILES = {
    "debian-faq.zh-cn.gb18030.txt": "gb18030",
    "debian-faq.zh-cn.gbk.txt": "gb18030",
    "debian-faq.zh-cn.utf8-bom.txt": "utf-8 with BOM",
    "drcd-繁體文章.big5.txt": "big5",
    "maint-guide.zh-cn.gb18030.txt": "gb18030",
    "唐诗三百首.gb2312.txt": "gb18030",
    "宋词.utf16le-bom.txt": "utf-16 with BOM",
}


@pytest.mark.parametrize(("name", "encoding"), FILES.items())
def test_real_files(data: Path, name: str, encoding: str) -> None:
    raw = (data / "docs/txt-encodings" / name).read_bytes()
    decoded = decode(raw)
    assert (decoded.encoding, decoded.warnings) == (encoding, ())
    assert not decoded.text.startswith("\ufeff")
    ideographs = [char for char in decoded.text if "\u4e00" <= char <= "\u9fff"]
    assert common_share("".join(ideographs)) > 0.45  # Tang poems hold the rarest; a wrong encoding stays under .15


def test_every_real_file_is_covered(data: Path) -> None:
    assert {path.name for path in (data / "docs/txt-encodings").iterdir()} == set(FILES)


def test_the_same_text_in_two_encodings(data: Path) -> None:
    folder = data / "docs/txt-encodings"
    utf8 = decode((folder / "debian-faq.zh-cn.utf8-bom.txt").read_bytes()).text
    assert decode((folder / "debian-faq.zh-cn.gb18030.txt").read_bytes()).text == utf8


def samples(text: str, codec: str, count: int) -> list[tuple[str, bytes]]:
    """Random runs of twenty characters that hold at least two Chinese ones and can be written in `codec`."""
    rng = random.Random(7)
    found: list[tuple[str, bytes]] = []
    while len(found) < count:
        start = rng.randrange(len(text) - 20)
        run = text[start : start + 20]
        if sum("\u4e00" <= char <= "\u9fff" for char in run) < 2:
            continue
        try:
            found.append((run, run.encode(codec)))
        except UnicodeEncodeError:
            continue
    return found


@pytest.mark.parametrize(("language", "codec"), [("zh-Hans", "gb18030"), ("zh-Hant", "big5"), ("zh-Hant", "gb18030")])
def test_twenty_characters_are_enough(data: Path, language: str, codec: str) -> None:
    lines = (data / "qa/dev/documents.jsonl").read_text("utf-8").splitlines()
    documents = [json.loads(line) for line in lines]
    text = "".join(document["text"] for document in documents if document["lang"] == language)
    drawn = samples(text, codec, 2000)
    right = sum(decode(raw).text == run for run, raw in drawn)
    assert right >= 0.98 * len(drawn)


def test_twenty_characters_of_other_texts(data: Path) -> None:
    for name in ("plaintext/现行法律.txt", "plaintext/古典诗文.txt", "docs/txt/debian-reference.zh-cn.txt"):
        drawn = samples((data / name).read_text("utf-8"), "gb18030", 1000)
        assert sum(decode(raw).text == run for run, raw in drawn) >= 0.98 * len(drawn), name


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_utf8_always_comes_back(text: str) -> None:
    raw = text.encode()
    if text.startswith(("\ufeff", "%PDF-", "PK\x03", "GGUF", "GIF8")):
        return
    assert decode(raw).text == text
    assert decode(b"\xef\xbb\xbf" + raw).text == text
    assert decode(text.encode("utf-16")).text == text


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(raw: bytes) -> None:
    """No byte vanishes: the text goes back to the same bytes, or a warning says what was lost, or it is refused."""
    try:
        decoded = decode(raw)
    except HanpacaError:
        return
    codec = decoded.encoding.removesuffix(" with BOM")
    if not decoded.warnings:
        assert decoded.text == raw.decode("utf-8-sig" if decoded.encoding == "utf-8 with BOM" else codec)
    else:
        assert "\ufffd" in decoded.text


def test_losses_are_counted() -> None:
    raw = (
        "这是一段普通的中文文本，用来检查坏字节的处理。".encode("gb18030")
        + b"\xff"
        + "后面还有文字，也要读出来。".encode("gb18030")
    )
    decoded = decode(raw)
    assert decoded.encoding == "gb18030"
    assert decoded.text.count("\ufffd") == 1 and decoded.text.endswith("读出来。")
    assert len(decoded.warnings) == 1 and "1 byte sequence" in decoded.warnings[0]


def test_utf8_with_one_bad_byte_stays_utf8() -> None:
    raw = "羊驼生活在南美洲的高原上，".encode() * 3 + b"\xff" + "它们的毛很柔软。".encode()
    decoded = decode(raw)
    assert decoded.encoding == "utf-8" and "柔软" in decoded.text and decoded.warnings


@pytest.mark.parametrize("codec", ["gb18030", "big5"])
def test_a_long_beginning_in_ascii_hides_nothing(codec: str) -> None:
    text = "[2026-11-25] started\n" * 5_000 + "的一在人是有不用和年中他件上文法"
    found = decode(text.encode(codec))
    assert (found.text, found.encoding) == (text, codec)


def test_western_text() -> None:
    decoded = decode("The café in Besançon was founded in 1887 by a naïve façade painter.".encode("latin-1"))
    assert decoded.encoding == "cp1252" and "Besançon" in decoded.text


def test_utf16_without_a_mark() -> None:
    text = "第一章 总则\n为了规范行为，制定本法。" * 4
    assert decode(text.encode("utf-16-le")).text == text
    assert decode(text.encode("utf-16-be")).text == text


def test_override() -> None:
    raw = "漢字".encode("big5")
    assert decode(raw, "big5").text == "漢字"
    assert decode("한국어".encode("euc_kr"), "euc-kr").text == "한국어"
    with pytest.raises(BadInput, match="gb18030"):
        decode(raw, "gb-nonsense")
    with pytest.raises(BadInput):
        decode(raw, "base64")  # a codec of Python, but of bytes


@pytest.mark.parametrize(
    "raw",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\xff\xd8\xff\xe0" + bytes(range(256)),
        b"%PDF-1.7 ...",
        b"PK\x03\x04" + bytes(30),
        bytes(range(256)) * 8,
        random.Random(3).randbytes(4000),
        b"\x00\x01\x02",
    ],
)
def test_binary_is_refused(raw: bytes) -> None:
    with pytest.raises(UnreadableDocument) as caught:
        decode(raw)
    assert caught.value.hint
