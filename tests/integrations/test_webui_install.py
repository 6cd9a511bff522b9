"""`hanpaca webui`: into a host's folder and out again, often, and without touching what is the user's."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from hanpaca.core.errors import BadInput
from hanpaca.integrations.cli import main
from hanpaca.integrations.webui.files import MANIFEST, digest, name_of, remember, written
from hanpaca.integrations.webui.install import MARKERS, PATTERN, host_in, install, remove, status
from hanpaca.integrations.webui.template import FILE

USERS = "# mine\nvicuna.*$:\n  instruction_template: Vicuna-v1.1\n  ctx_size: 2048\n"


@pytest.fixture
def web_ui(tmp_path: Path) -> Path:
    """A folder that looks like the host, with a Chinese name."""
    root = tmp_path / "文本生成 webui"
    for name in MARKERS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("", encoding="utf-8")
    for name in ("extensions", "instruction-templates", "models"):
        (root / "user_data" / name).mkdir(parents=True)
    return root


def config(root: Path) -> Path:
    return root / "user_data/models/config-user.yaml"


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_install_and_remove_leave_the_folder_as_it_was(web_ui: Path) -> None:
    before, host = tree(web_ui), host_in(web_ui)
    assert not status(host).installed
    report = install(host)
    assert (report.installed, report.template, report.entry, report.kept) == (True, True, True, [])
    assert len(report.done) == 5
    folder = web_ui / "user_data/extensions/hanpaca"
    assert {path.name for path in folder.iterdir()} == {"script.py", "README.md", FILE.name, MANIFEST}
    assert yaml.safe_load(config(web_ui).read_text(encoding="utf-8")) == {
        PATTERN: {"instruction_template": "Chinese-Alpaca-2"}
    }
    installed = tree(web_ui)
    assert install(host).done == []
    assert tree(web_ui) == installed
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/script.cpython-311.pyc").write_bytes(b"")
    assert remove(host).kept == []
    assert tree(web_ui) == before
    assert remove(host).done == []


@pytest.mark.parametrize("theirs", [USERS, "---\n" + USERS, USERS.replace("\n", "\r\n"), ""])
def test_the_users_entries_stay_and_win(web_ui: Path, theirs: str) -> None:
    config(web_ui).write_bytes(theirs.encode())
    install(host_in(web_ui))
    data = config(web_ui).read_bytes()
    found = yaml.safe_load(data)
    assert next(iter(found)) == PATTERN, "the host lets later entries win"
    assert all(line in data for line in theirs.encode().splitlines())
    assert data.isascii(), "the host reads it in the system's encoding"
    remove(host_in(web_ui))
    assert not theirs or config(web_ui).read_bytes() == theirs.encode()


@pytest.mark.parametrize("theirs", [b"{a: {ctx_size: 1}}\n", b"- a\n", b"a: [\n", "模型:\n  b: 1\n".encode("gb18030")])
def test_a_file_that_cannot_be_added_to_safely_is_left_alone(web_ui: Path, theirs: bytes) -> None:
    config(web_ui).write_bytes(theirs)
    report = install(host_in(web_ui))
    assert config(web_ui).read_bytes() == theirs
    assert not report.entry
    assert "instruction_template: Chinese-Alpaca-2" in report.kept[0]


def test_a_linked_private_config_stays_a_link_and_private(web_ui: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "dotfiles.yaml"
    for text in (USERS, ""):
        theirs.write_text(text, encoding="utf-8")
        theirs.chmod(0o600)
        config(web_ui).unlink(missing_ok=True)
        config(web_ui).symlink_to(theirs)
        assert install(host_in(web_ui)).entry
        assert config(web_ui).is_symlink()
        assert PATTERN in theirs.read_text(encoding="utf-8")
        assert theirs.stat().st_mode & 0o777 == 0o600
        remove(host_in(web_ui))
        assert config(web_ui).is_symlink()
        assert theirs.read_text(encoding="utf-8") == text


def test_what_the_user_changed_is_neither_overwritten_nor_removed(web_ui: Path) -> None:
    host = host_in(web_ui)
    install(host)
    script, template = host.extension / "script.py", host.template
    script.write_text("# mine", encoding="utf-8")
    template.write_text("instruction_template: mine", encoding="utf-8")
    config(web_ui).write_text(f"'{PATTERN}':\n  instruction_template: Mine\n", encoding="utf-8")
    report = install(host)
    assert (report.installed, report.template, report.entry) == (False, False, False)
    assert len(report.kept) == 3
    report = remove(host)
    assert script.read_text(encoding="utf-8") == "# mine"
    assert template.exists()
    assert "Mine" in config(web_ui).read_text(encoding="utf-8")
    assert len(report.kept) == 3


def test_an_older_version_is_updated_and_only_what_was_changed_stays(web_ui: Path) -> None:
    host = host_in(web_ui)
    install(host)
    script, readme = host.extension / "script.py", host.extension / "README.md"
    for path in (script, readme, host.template):
        path.write_text("as an older version wrote it", encoding="utf-8")
        remember(host.extension, written(host.extension) | {name_of(path): digest(path)})
    readme.write_text("as the user wrote it", encoding="utf-8")
    report = install(host)
    assert [line.split()[0] for line in report.done] == ["updated", "updated"]
    assert (report.installed, report.template) == (False, True)
    assert str(readme) in report.kept[0]
    assert "as the user" in readme.read_text(encoding="utf-8")
    readme.unlink()
    assert install(host).installed
    script.write_text("older again", encoding="utf-8")
    remember(host.extension, written(host.extension) | {name_of(script): digest(script)})
    assert remove(host).kept == []
    assert not host.extension.exists()


def test_a_dangling_link_is_the_users(web_ui: Path, tmp_path: Path) -> None:
    host = host_in(web_ui)
    host.template.symlink_to(tmp_path / "gone.yaml")
    assert not install(host).template
    assert host.template.is_symlink()


@pytest.mark.parametrize("at", range(6))
def test_a_disk_that_fails_leaves_no_half_install(
    web_ui: Path, at: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, replace, calls = tree(web_ui), os.replace, iter(range(100))

    def failing(source: Path, there: Path) -> None:
        if next(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device", str(there))
        replace(source, there)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing)
        code = main(["webui", "install", str(web_ui)])
    assert code == 2
    told = capsys.readouterr().err
    assert "No space left on device" in told and "give the command again" in told and "Traceback" not in told
    assert tree(web_ui) == before
    assert main(["webui", "install", str(web_ui)]) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(web_ui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (web_ui / "user_data/extensions").chmod(0o500)
    assert main(["webui", "install", str(web_ui)]) == 2
    assert "Permission denied" in capsys.readouterr().err
    (web_ui / "user_data/extensions").chmod(0o700)


def test_the_entry_goes_after_the_host_rewrote_the_file(web_ui: Path) -> None:
    config(web_ui).write_text(USERS, encoding="utf-8")
    host = host_in(web_ui)
    install(host)
    mine = yaml.safe_load(config(web_ui).read_text(encoding="utf-8"))
    config(web_ui).write_text(yaml.dump(mine, sort_keys=False), encoding="utf-8")  # as the host's Save settings does
    assert install(host).done == []
    remove(host)
    assert yaml.safe_load(config(web_ui).read_text(encoding="utf-8")) == yaml.safe_load(USERS)


def test_portable_builds_and_other_folders(web_ui: Path, tmp_path: Path) -> None:
    portable = tmp_path / "portable"
    portable.mkdir()
    (web_ui / "user_data").rename(portable / "user_data")
    web_ui.rename(portable / "app")
    assert host_in(portable).user_data == portable / "user_data"
    with pytest.raises(BadInput, match="is not text-generation-webui"):
        host_in(tmp_path)
    with pytest.raises(BadInput, match="no folder"):
        host_in(tmp_path / "nowhere")
    (portable / "user_data").rename(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="has no user_data folder"):
        host_in(portable)
    with pytest.raises(BadInput, match=r"There is no folder .*misspelt"):
        host_in(portable, tmp_path / "misspelt")
    assert host_in(portable, tmp_path / "elsewhere").user_data == tmp_path / "elsewhere"


def test_the_command(web_ui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> tuple[int, Any]:
        code = main(["webui", *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    assert told("status", str(web_ui))[0] == 1
    code, report = told("install", str(web_ui))
    assert (code, report["installed"], len(report["done"])) == (0, True, 5)
    assert told("status", str(web_ui))[0] == 0
    assert main(["webui", "install", str(web_ui)]) == 0
    assert "--extensions hanpaca" in capsys.readouterr().out
    assert told("remove", str(web_ui))[1]["installed"] is False
    assert main(["webui", "install", str(web_ui / "models")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["webui", "polish", str(web_ui)]) == 2
    assert main(["webui", "install", str(web_ui)]) == 0
    (web_ui / "user_data/extensions/hanpaca/script.py").write_text("mine", encoding="utf-8")
    assert main(["webui", "install", str(web_ui)]) == 2
    assert "was changed, and stays" in capsys.readouterr().err
