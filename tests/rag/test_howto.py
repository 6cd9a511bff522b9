"""How-to questions on a real manual are answered from its command tables. Needs the folder that HANPACA_DATA names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hanpaca.rag import Library, answer

CHINESE = "docs/html/debian-reference-zh-cn/ch02.zh-cn.html"
HEADING = '<h2 class="title">'
SECTIONS = ('<a id="_basic_package_management', '<a id="_advanced_package_management')
ENGLISH, LINES = "docs/txt/debmake-doc.en.txt", slice(1900, 2060)


@pytest.fixture(scope="module")
def manual(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """Two sections of the chapter on packages, in Chinese, and a part of an English guide."""
    if not (data / CHINESE).is_file() or not (data / ENGLISH).is_file():
        pytest.skip(f"{data} does not hold the manuals")
    folder = tmp_path_factory.mktemp("manual")
    sections = (data / CHINESE).read_text(encoding="utf-8").split(HEADING)
    chosen = [HEADING + section for section in sections if section.startswith(SECTIONS)]
    assert len(chosen) == len(SECTIONS)
    (folder / "packages.html").write_text(f"<html><body>{''.join(chosen)}</body></html>", encoding="utf-8")
    lines = (data / ENGLISH).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "debmake.txt").write_text("".join(lines[LINES]), encoding="utf-8")
    with Library.open(tmp_path_factory.mktemp("library")) as library:
        library.sync([folder])
        yield library


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("如何查看已安装的软件包列表？", "dpkg -l package_name_pattern | 列出已安装软件包的列表"),
        ("怎样列出已安装软件包？", "dpkg -l package_name_pattern | 列出已安装软件包的列表"),
        ("怎样重新配置一个软件包？", "dpkg-reconfigure package_name | 重新配置软件包"),
        (
            "如何查看软件包的详细信息？",
            "apt show foo | aptitude show foo | apt-cache show foo | 显示 “foo” 软件包的详细信息",
        ),
        ("怎么移除不再需要的自动安装的软件包？", "apt autoremove | N/A | apt-get autoremove"),
        ("How do I create a patch with the dquilt command?", "dquilt"),
        ("How can I commit a patch by dpkg-source?", "dpkg-source --commit"),
    ],
)
def test_a_how_to_question_is_answered_by_the_command(manual: Library, question: str, told: str) -> None:
    given = answer(manual, None, question, abstain=False)
    assert any(told in citation.quote for citation in given.citations), [one.quote for one in given.citations]
