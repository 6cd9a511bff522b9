"""Whether llama.cpp's kernels for AMX, as they were compiled here, work: tried in a process of its own.

GCC before 11.5, 12.4 and 13.3 drops most of what a processor's tiles are configured with (GCC bug 114098), and the
first pass of a quantized model ends the process on Intel's Xeons since Sapphire Rapids (llama.cpp issue 20824). Nothing
of that can be caught, so a model of one layer goes first, elsewhere: with layouts for the processor and, where it dies,
without. The parent's half knows processes and one small file that remembers; the child's half knows llama.cpp's plain
API and says "ok".
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import platform
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from ..children import command
from ..errors import HanpacaError

FLAGS = "-fno-dse -fno-tree-dse"
"""What such a GCC is to compile llama.cpp's C++ with; the Makefile says so too."""
_TIMEOUT = 60.0
_WIDTH = 64
"""Of the model: its hidden size, its vocabulary and all else. Kernels for AMX take multiples of 32."""

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_found: list[bool] = []


def amx_works() -> bool:
    """Whether weights may be laid out for the processor. True at once where llama.cpp was compiled without AMX, else
    tried once per build (about a second) and remembered in the cache folder. False, with a warning, costs half of the
    speed or more; where the trial itself failed it is made again by the next process. Raises nothing."""
    with _lock:
        if not _found:
            _found.append(_amx_works() if has_amx() else True)
        return _found[0]


def has_amx() -> bool:
    """Whether llama.cpp was compiled with its kernels for AMX."""
    return "AMX_INT8 = 1" in _about()


def _about() -> str:
    """What llama.cpp says of how it was compiled."""
    from .llama_native import library

    return str(library().llama_print_system_info().decode())


def _amx_works() -> bool:
    try:
        build = _build()
        works = _remembered(build)
        if works is None:
            works = _try()
            _remember(build, works)
    except (OSError, ValueError, TypeError, subprocess.SubprocessError, HanpacaError) as error:
        _log.warning("Whether llama.cpp can use AMX could not be tried, so it is not used now: %s", error)
        return False
    if not works:
        _log.warning(
            "llama.cpp, as compiled here, cannot use this processor's AMX (GCC before 11.5, 12.4 and 13.3 breaks it): "
            'models run without it, at half the speed or less. Compile it again: CXXFLAGS="%s" pip install '
            "--force-reinstall --no-deps --no-cache-dir llama-cpp-python==%s (docs/en/engine.md says more)",
            FLAGS,
            _version(),
        )
    return works


def _try() -> bool:
    """Whether the small model computes with layouts for the processor. Raises `ChildProcessError` if it does not
    without them either, so that something else is wrong."""
    if not sys.executable or getattr(sys, "frozen", False):
        raise ChildProcessError("Python does not know its own program file")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "probe.gguf"
        model.write_bytes(small_model())
        if _computes(model, laid_out=True):
            return True
        if _computes(model, laid_out=False):
            return False
    raise ChildProcessError("a process that computes with llama.cpp ends early")


def _computes(model: Path, *, laid_out: bool) -> bool:
    run = subprocess.run(
        _command(model, laid_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=_TIMEOUT,
        check=False,
        start_new_session=True,  # Ctrl+C is for the caller
    )
    return run.stdout == b"ok"


def _command(model: Path, laid_out: bool) -> list[str]:
    return command(__name__, "main", str(model), str(int(laid_out)))


def _version() -> str:
    from .llama_native import library

    return str(library().__version__)


def _build() -> str:
    """What the answer depends on: the machine, the library's files, and what it says of itself."""
    from .llama_native import library

    folder = Path(os.environ.get("LLAMA_CPP_LIB_PATH") or Path(library().__file__).parent / "lib").absolute()
    files = sorted(folder.glob("*ggml-cpu*"))
    stamps = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return "\n".join([platform.node(), platform.release(), *stamps, _about()])


def _record() -> Path:
    from ..cache import cache_folder

    return cache_folder() / "amx.json"


def _remembered(build: str) -> bool | None:
    try:
        record = json.loads(_record().read_text("utf-8"))
        return bool(record["works"]) if record["build"] == build else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(build: str, works: bool) -> None:
    from ..weights.files import new_file

    try:
        with new_file(_record()) as partial:
            partial.write_text(json.dumps({"build": build, "works": works}), "utf-8")
    except (OSError, HanpacaError) as error:
        _log.info("%s cannot be written, so AMX is tried again next time: %s", _record(), error)


def small_model() -> bytes:
    """A GGUF file (version 3) of one LLaMA layer and no tokenizer, all zeros, its matrices in Q8_0."""
    settings: dict[str, str | int | float] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "none",
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        **dict.fromkeys((f"llama.{n}" for n in ("block_count", "attention.head_count", "attention.head_count_kv")), 1),
        **dict.fromkeys(
            (f"llama.{n}" for n in ("embedding_length", "feed_forward_length", "context_length", "vocab_size")), _WIDTH
        ),
    }
    matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    tensors = {"token_embd": 2, "output_norm": 1, "output": 2, "blk.0.attn_norm": 1, "blk.0.ffn_norm": 1}
    tensors |= dict.fromkeys((f"blk.0.{name}" for name in matrices), 2)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings))
    for key, value in settings.items():
        head += _text(key) + _value(value)
    size = 0
    for name, dimensions in tensors.items():
        shape = [_WIDTH] * dimensions
        head += _text(f"{name}.weight") + struct.pack(f"<I{dimensions}Q", dimensions, *shape)
        head += struct.pack("<IQ", 8 if dimensions == 2 else 0, size)  # Q8_0 or F32
        size += _WIDTH * _WIDTH * 34 // 32 if dimensions == 2 else _WIDTH * 4
    return head + bytes(-len(head) % 32 + size)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value: str | int | float) -> bytes:
    """A GGUF value with its type before it: string 8, float32 6, uint32 4."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)


def main(model: str, laid_out: str) -> None:
    """The child: one pass of eight tokens on the CPU. Says "ok", or ends as llama.cpp ends it."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError):
        pass  # Windows has no core files
    import llama_cpp as L

    settings = L.llama_model_default_params()
    settings.n_gpu_layers, settings.use_extra_bufts = 0, laid_out == "1"
    weights = L.llama_model_load_from_file(os.fsencode(model), settings)
    params = L.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 256, 2, 2
    params.offload_kqv = params.op_offload = False
    context = L.llama_init_from_model(weights, params) if weights else None
    tokens = (ctypes.c_int32 * 8)(*range(8))
    if context and L.llama_decode(context, L.llama_batch_get_one(tokens, 8)) == 0:
        os.write(1, b"ok")
    os._exit(0)
