"""Downloads that are cut, damaged or half done: what is gone on from, fetched again or refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hub_stub import Hub
from stubbed_hub import NAME, REPOSITORY, gguf, hub

from hanpaca.core.cache import cached, folder_of, recorded
from hanpaca.core.catalog import resolve
from hanpaca.core.errors import DownloadFailed, ModelNotFound
from hanpaca.core.hub import pull

__all__ = ["gguf", "hub"]


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
