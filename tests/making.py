"""Makes small documents in memory: PDFs written by hand, since no library here writes broken ones."""

import zlib

_ENCRYPTED = "<< /Filter /Standard /V 1 /R 2 /Length 40 /P -4 /O <" + "11" * 32 + "> /U <" + "22" * 32 + "> >>"


def pdf(pages: list[str], *, encrypted: bool = False, font: str = "latin", title: str = "") -> bytes:
    """A PDF with one content stream per page. Fonts: latin (Helvetica) or cid (codes without a table to Unicode),
    gb1 (Chinese, UTF-16 codes, not embedded)."""
    fonts = {
        "latin": "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        "cid": (
            "<< /Type /Font /Subtype /Type0 /BaseFont /Lost /Encoding /Identity-H /DescendantFonts "
            "[<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Lost /CIDSystemInfo "
            "<< /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> /FontDescriptor "
            "<< /Type /FontDescriptor /FontName /Lost /Flags 4 >> >>] >>"
        ),
        "gb1": (
            "<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H /DescendantFonts "
            "[<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light /CIDSystemInfo "
            "<< /Registry (Adobe) /Ordering (GB1) /Supplement 4 >> /FontDescriptor "
            "<< /Type /FontDescriptor /FontName /STSong-Light /Flags 4 >> /DW 1000 >>] >>"
        ),
    }
    picture = zlib.compress(bytes([200] * (64 * 64)))
    kids = " ".join(f"{6 + 2 * index} 0 R" for index in range(len(pages)))
    objects: list[bytes] = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>".encode(),
        fonts[font].encode(),
        b"<< /Type /XObject /Subtype /Image /Width 64 /Height 64 /ColorSpace /DeviceGray /BitsPerComponent 8 "
        b"/Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(picture), picture),
        f"<< /Title <feff{title.encode('utf-16-be').hex()}> >>".encode(),
    ]
    for index, content in enumerate(pages):
        stream = content.encode("latin-1")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {7 + 2 * index} 0 R "
            "/Resources << /Font << /F1 3 0 R >> /XObject << /Im1 4 0 R >> >> >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    out = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    extra = f"/Encrypt {_ENCRYPTED} /ID [<{'33' * 16}> <{'33' * 16}>]" if encrypted else ""
    out += (
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info 5 0 R {extra} >>\nstartxref\n{start}\n%%EOF\n".encode()
    )
    return bytes(out)


def shown(*lines: str, size: int = 12) -> str:
    """A content stream that shows lines of Latin text."""
    return f"BT /F1 {size} Tf {size + 4} TL 60 720 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"


def codes(numbers: list[int]) -> str:
    """A content stream that shows character codes of a CID font."""
    return f"BT /F1 12 Tf 60 720 Td <{''.join(f'{number:04x}' for number in numbers)}> Tj ET"


PICTURE = "q 400 0 0 400 100 200 cm /Im1 Do Q"
"""A content stream that shows a grey picture and nothing else."""


def chinese(*lines: str, size: int = 12) -> str:
    """A content stream that shows lines of Chinese in the font gb1."""
    drawn = " ".join(f"<{line.encode('utf-16-be').hex()}> Tj T*" for line in lines)
    return f"BT /F1 {size} Tf {size + 4} TL 60 720 Td {drawn} ET"
