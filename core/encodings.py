"""Bytes → text by rule: byte order mark, strict UTF-8, then GB18030 or Big5 by the share of common characters.

Knows no file formats. A statistical detector needs hundreds of bytes; Chinese text in the wrong legacy encoding turns
into rare characters at once, so counting common ones decides a line of twenty characters.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from .errors import BadInput, UnreadableDocument

_SIMPLIFIED = (
    "的一在人是有了不用和年为个以中他件上来行大国这于第可地法文会时下到定出本我子者作你使条家要后生或包十当里理成其们"
    "说对得发小过动部分能应自也日系所务方学名主道管统业进公工通面二月并被如多经关由之事软数物就设民制内同安程表三着与"
    "提机斯它及等全位规代政合开式任前加员现保从而命期去新令特建长起见利权天那好都列因重没区只体门处间些产电化种最相高"
    "外入将然儿尔线正路意接据置目看实具明示参语么两海还但标单金手立性四心又西常院依运样至基头信次字回格比服克向场五级"
    "资配把交车度责果东口该原水问户称器更市给计力品站约老平情亚取无台知序此节照备选共球太点量构马受想变存录号供组查支"
    "已类活元改装军职认拉收王带环议准府证教司报南直非除许则境转科流指德队义持形未巴打解百记按别编护很版码华息布达限听"
    "请源需色六案监身告便展赛委罗符网总美书像档专龙先话林士完项结世例连北山县反空款农集走施英容治女社界她气商花决复七"
    "营宝术传战造再导库什各算承八放何万始根己险联显言近声风省广图才属检执求少维载输兰视端密创城模边死夫叫获换让且止确"
    "强调米费几注每律做候影写河星整快质港首州领违失必真够洲清病份型玉远盘白笑游客论今即启往乐住九办贾阿尼督江章助货修"
    "采石企树值税干块技香纳母神脚张易织移育吃终较著亲引眼找题欧负操卡况演投域罚音核控担校银登层随财额古害济越画托光呢"
    "早防功速推药离帝官普增括另故络片足铁村益森满范园协停陆食黑键态草伊族划损曾予排际"
)
_TRADITIONAL = (
    "國為於會後時學與臺軍來灣戰對東個發動並經長這島黨區開統過權內進聯產當間業馬華現達議領總爾縣將稱員兩體羅恩亞種周語"
    "義選機實組央電濟毛數視關從認爭際結朝約導則運傳崎陸們紀說設劉皇蘭還邦舉屬澤歐隊土奇史論派車務局別納維點變據條風革"
    "盧決處報許魯無威蘇農極團祖武獲強沒問級場仍帶題織資參席批繼氣擊號眾居均計狄福應俄宣離術圖書漢線致該田隨嚴初規殖埃"
    "群廣鐵張協步陳京槍續類抗勢歷門魚較階庫萬記連積敗劃響亦觀沙宗岸辦火鄉見護構製專盟憲衝幕梅賽轉播獨烈狀幾仁奴衛標吉"
    "船屆單質塔佔鬥策壓雙精復半耶給洋興略波研邊頭劇係堡占段僅終穌負責兵調奧隸證絕創象印超紅逐熱態思勞究話畫漸節親低退"
    "臨固園溫樂頁束識判採難腓父層職署李降落考遠雖遭簽鎮射藝頻役留讓費念圍志康底氏貿效勝攻鮮愛斷希況突"
)
_COMMON = frozenset(
    _SIMPLIFIED + _TRADITIONAL + "，。、；：？！“”‘’「」『』《》（）〈〉【】—…·～　０１２３４５６７８９％＋－／①②③④⑤"
)

_PIECE = 1 << 16
_SAMPLE = 64 * 1024
"""Bytes that decide; more change nothing and cost time."""

_MARKS = (  # UTF-32 first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SIGNATURES = (
    (b"%PDF-", "a PDF file"),
    (b"PK\x03\x04", "a ZIP archive or an Office document"),
    (b"\xd0\xcf\x11\xe0", "an old Office document (.doc, .xls, .ppt)"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x7fELF", "a program"),
    (b"GGUF", "a model file"),
)
_CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")
_FOREIGN = re.compile(rb"[\x80-\xff]")
_GB, _BIG5 = "gb18030", "big5"
_BIG5_FORMS = ("big5", "cp950", "big5hkscs")  # each adds characters to the one before


@dataclass(frozen=True)
class Decoded:
    """Text, how it was read, and what could not be."""

    text: str
    encoding: str
    """Codec name as Python knows it; GBK and GB2312 files read as gb18030, which holds both."""
    warnings: tuple[str, ...] = ()


def decode(data: bytes, encoding: str | None = None) -> Decoded:
    """Decode a whole text file; `encoding` overrides the rule.

    No byte is dropped silently: what is not valid becomes U+FFFD and is counted in a warning. Raises
    `UnreadableDocument` for binary data and `BadInput` for an unknown codec name.
    """
    if encoding is not None:
        return _forced(data, encoding)
    for mark, codec in _MARKS:
        if data.startswith(mark):
            return _lenient(data, codec)
    sample = data[:_SAMPLE]
    if b"\0" in sample:
        wide = _utf16_without_mark(sample)
        if wide is not None:
            return _lenient(data, wide)
    _refuse_binary(sample)
    try:
        return Decoded(_strict(data, "utf-8"), "utf-8")
    except UnicodeDecodeError:
        first = _FOREIGN.search(data)  # so much plain ASCII before it decides nothing
        start = max(0, first.start() - _SAMPLE // 2) if first else 0
        return _lenient(data, _guess(data[start : start + _SAMPLE]))


def _forced(data: bytes, encoding: str) -> Decoded:
    try:
        name = codecs.lookup(encoding).name
        b"\xff".decode(name, "replace")  # refuses codecs that make no text, such as base64, or not of any bytes
    except (LookupError, ValueError):
        known = "utf-8, gb18030, gbk, big5, big5hkscs, utf-16, utf-16-le, utf-16-be, cp1252, shift_jis, euc_kr"
        raise BadInput(f"There is no text encoding named {encoding!r}.", f"Use one of: {known}.") from None
    return _lenient(data, name)


def _lenient(data: bytes, codec: str) -> Decoded:
    """Strict where that works; otherwise with every loss counted."""
    forms = _BIG5_FORMS if codec == _BIG5 else (codec,)
    for form in forms:
        try:
            return Decoded(_strict(data, form), _shown(form))
        except UnicodeDecodeError:
            continue
    form = forms[-1]
    text = data.decode(form, errors="replace")
    lost = text.count("\ufffd")
    if lost * 10 > len(text):
        raise UnreadableDocument(
            f"More than a tenth of the file is not {_shown(form)} text.",
            "If it is a text file, name its encoding; otherwise give it its real extension.",
        )
    warning = (
        f"{lost} byte sequence(s) are not valid {_shown(form)} and show as \ufffd; name the encoding if it is another"
    )
    return Decoded(text, _shown(form), (warning,))


def _strict(data: bytes, codec: str) -> str:
    """As `data.decode(codec)`, but a long text is never in memory twice.

    Python holds every character in as many bytes as the widest needs, and copies all of it when a wider one comes;
    appending to one string grows it in place.
    """
    if len(data) <= _PIECE:
        return data.decode(codec)
    decoder = codecs.getincrementaldecoder(codec)()
    text = ""
    for start in range(0, len(data), _PIECE):
        text += decoder.decode(data[start : start + _PIECE])
    text += decoder.decode(b"", True)
    return text


def _shown(codec: str) -> str:
    return {"utf-8-sig": "utf-8 with BOM", "utf-16": "utf-16 with BOM", "utf-32": "utf-32 with BOM"}.get(codec, codec)


def _utf16_without_mark(sample: bytes) -> str | None:
    """UTF-16 that lost its mark: nearly all of it decodes to ASCII and common characters."""
    even = sample[: len(sample) // 2 * 2]
    for codec in ("utf-16-le", "utf-16-be"):
        text = even.decode(codec, errors="replace")
        usual = sum(" " <= char <= "~" or char in "\r\n\t" or char in _COMMON for char in text)
        if text and usual > 0.5 * len(text) and "\0" not in text:
            return codec
    return None


def _refuse_binary(sample: bytes) -> None:
    for signature, what in _SIGNATURES:
        if sample.startswith(signature):
            raise UnreadableDocument(f"This is {what}, not text.", "Give the file the extension of its real type.")
    if b"\0" in sample or len(_CONTROL.findall(sample)) * 50 > len(sample):
        raise UnreadableDocument(
            "This is a binary file, not text.", "Leave it out, or give it the extension of its real type."
        )


def _guess(sample: bytes) -> str:
    """The encoding under which most characters are common ones; cp1252 where Chinese makes no sense."""
    shares = {codec: _common_share(sample, codec) for codec in ("utf-8", _GB, _BIG5)}
    best = max(shares, key=lambda codec: shares[codec])
    return best if shares[best] >= 0.2 or not _western(sample) else "cp1252"


def _common_share(sample: bytes, codec: str) -> float:
    """Share of common characters among the non-ASCII ones, a cut last character left out."""
    decoder = codecs.getincrementaldecoder("cp950" if codec == _BIG5 else codec)("replace")
    foreign = [char for char in decoder.decode(sample) if char > "\x7f"]
    if not foreign:
        return 0.0
    return sum((char in _COMMON) - (char == "\ufffd") for char in foreign) / len(foreign)


def _western(sample: bytes) -> bool:
    """Mostly ASCII, its high bytes single letters between ASCII ones, as in café."""
    high = re.findall(rb"[\x80-\xff]+", sample)
    return sum(map(len, high)) * 5 < len(sample) and sum(len(run) == 1 for run in high) * 2 > len(high)


def common_share(text: str) -> float:
    """Share of common Chinese characters and punctuation in `text`; running Chinese text has .5 and more."""
    return sum(char in _COMMON for char in text) / len(text) if text else 0.0
