from __future__ import annotations

import math
from pathlib import Path

import pytest

from hanpaca.core.catalog import entries, entry
from hanpaca.core.errors import BadInput
from hanpaca.core.memory import BITS, GIB, _container_room, available, best_type, fit, fits, kv_size, weights_size

PUBLISHED = {
    "f16": 12.91, "q2_k": 2.41, "q3_k": 3.18, "q4_0": 3.69, "q4_1": 4.08, "q4_k": 3.92, "q5_0": 4.47, "q5_1": 4.86,
    "q5_k": 4.59, "q6_k": 5.30, "q8_0": 6.81,
}  # fmt: skip
"""GiB of LLaMA-2-7B with 55,296 pieces, as published."""
MEASURED = {"f16": 13_860_294_080, "q4_0": 3_958_263_264, "q6_k": 5_686_250_976, "q8_0": 7_364_365_792}
"""Bytes of real files of that shape."""
SEVEN = entry("chinese-alpaca-2-7b")


@pytest.mark.parametrize("kind", PUBLISHED)
def test_sizes_are_the_published_ones(kind: str) -> None:
    assert weights_size(SEVEN.shape, SEVEN.vocabulary, kind) / GIB == pytest.approx(PUBLISHED[kind], rel=0.01)


@pytest.mark.parametrize("kind", MEASURED)
def test_sizes_are_those_of_real_files(kind: str) -> None:
    assert weights_size(SEVEN.shape, SEVEN.vocabulary, kind) == pytest.approx(MEASURED[kind], rel=0.001)


def test_keys_and_values() -> None:
    """32 layers of 4,096 numbers, twice, in 2 bytes: 2 GiB for 4,096 positions. Grouped heads take a third here."""
    assert kv_size(SEVEN.shape, 4096) == 2 * GIB
    assert kv_size(SEVEN.shape, 4096, "q8_0") == 2 * GIB * 34 // 64
    assert kv_size(entry("smollm2").shape, 1) == 2 * 30 * 192 * 2
    with pytest.raises(BadInput, match="Valid: f32, f16, q8_0, q4_0"):
        kv_size(SEVEN.shape, 1, "q3")


def test_what_fits_eight_gibibytes() -> None:
    found = fit(SEVEN, "q4_k", 8 * GIB)
    left = 8 * GIB * 0.9 - found.weights - 300 * 2**20
    assert found.contexts["f16"] == pytest.approx(left / (512 * 1024), rel=0.001)  # half a MiB a position
    assert found.contexts["q4_0"] > found.contexts["q8_0"] > found.contexts["f16"] > 4096 and found.fits
    assert not fit(SEVEN, "f16", 8 * GIB).fits and fit(SEVEN, "f16", 8 * GIB).contexts["q4_0"] == 0
    assert fit(SEVEN, "q4_0", 500 * GIB).contexts["f16"] == 18_432, "beyond 4.5 windows the model is no good"


@pytest.mark.parametrize(("gib", "kind"), [(64, "q8_0"), (9.5, "q6_k"), (8.0, "q5_k"), (7.2, "q4_k"), (1, "q2_k")])
def test_the_best_type(gib: float, kind: str) -> None:
    assert best_type(SEVEN, int(gib * GIB)) == kind


def test_the_table_has_every_published_file() -> None:
    rows = fits(memory=16 * GIB)
    assert {(row.name, row.type) for row in rows} == {(e.name, kind) for e in entries() for kind in e.types}
    assert set(SEVEN.types) <= set(BITS)


def test_this_machine_has_memory() -> None:
    assert 2**26 < available() < 2**50


def test_a_container_s_limit_counts_and_its_cached_files_are_free(tmp_path: Path) -> None:
    assert _container_room(tmp_path) == math.inf
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 300\nfile 600\ninactive_file 400\nactive_file 150\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert _container_room(tmp_path) == 650
    (tmp_path / "memory.max").write_text("max\n")
    assert _container_room(tmp_path) == math.inf


def test_an_unknown_type() -> None:
    with pytest.raises(BadInput, match="Known: f16, q8_0"):
        weights_size(SEVEN.shape, 1, "q9")
