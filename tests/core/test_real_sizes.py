"""A checkpoint of the published 1.3B shape, 2.5 GB of random F16 numbers: memory while converting, and real sizes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from checkpoints import write_tokenizer

from hanpaca.core.weights.checkpoint import Tensor
from hanpaca.core.weights.llama import Shape
from hanpaca.core.weights.quantize import plan, quantize
from hanpaca.core.weights.safetensors_file import write_safetensors

pytestmark = pytest.mark.slow

SHAPE = Shape(layers=4, hidden=4096, ffn=11008, heads=32, kv_heads=32, vocabulary=55_296, head_dim=128)
CONVERT = """
import re, sys
from pathlib import Path
import psutil
from hanpaca.core.weights.convert import convert
idle = psutil.Process().memory_info().rss
convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(int(peak) * 1024 - idle)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("sizes")
    if psutil.disk_usage(str(path)).free < 9 << 30:
        pytest.skip("needs 9 GiB of disk")
    write_tokenizer(path / "model", data / "tokenizers" / "chinese-llama2-55296.tokenizer.model", pad=True)
    config = {
        "model_type": "llama",
        "num_hidden_layers": SHAPE.layers,
        "hidden_size": SHAPE.hidden,
        "intermediate_size": SHAPE.ffn,
        "num_attention_heads": SHAPE.heads,
        "vocab_size": SHAPE.vocabulary,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }
    (path / "model" / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor(name, shape) for name, shape in SHAPE.weights().items()}
    write_safetensors(path / "model" / "model.safetensors", tensors)
    yield path
    shutil.rmtree(path)


def tensor(name: str, shape: tuple[int, ...]) -> tuple[Tensor, Any]:
    block = np.random.default_rng(0).normal(0, 0.02, (64, shape[-1])).astype(np.float16)
    described = Tensor(name, "F16", shape, Path(), 0)
    rows = described.rows

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, rows, 64):
            yield block[: min(64, rows - start)]

    return described, blocks


@pytest.mark.parametrize("type", ["f16", "q8_0", "f32"])
def test_converting_takes_less_than_a_gigabyte_and_gives_the_planned_size(folder: Path, type: str) -> None:
    out = folder / f"{type}.gguf"
    command = [sys.executable, "-c", CONVERT, str(folder / "model"), str(out), type]
    used = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"{type}: {used / 2**20:.0f} MiB above idle, {out.stat().st_size:,} bytes")
    assert used < 1 << 30
    assert used < 4 * SHAPE.vocabulary * SHAPE.hidden  # one tensor in F32
    assert out.stat().st_size == dict(plan(folder / "model", [type]))[type.upper()]
    if type != "f16":
        out.unlink()


@pytest.mark.parametrize("type", ["Q4_0", "Q6_K", "Q8_0"])
def test_the_plan_is_the_real_size(folder: Path, type: str) -> None:
    source = folder / "f16.gguf"
    out = quantize(source, folder / "out.gguf", type)
    planned = dict(plan(folder / "model", [type]))[type]
    print(f"{type}: planned {planned:,}, real {out.stat().st_size:,}")
    assert out.stat().st_size == planned
    by_shape = dict(plan(SHAPE, [type]))[type]
    assert by_shape == pytest.approx(planned, rel=0.003)  # the shape alone lacks the tokenizer
    out.unlink()
