"""The process that llama.cpp quantizes in: `python -m hanpaca.core.weights.quantize_child`.

llama.cpp's quantization has no progress and no cancel hook, only a log that is one for the whole process. So it runs
here, alone, and tells its log to the parent as it comes; to cancel is to kill. The task comes as one line of JSON
on standard input; when that closes, the parent has gone, and this process ends too. Knows nothing of what it is for.

    in:  {"src": path, "jobs": [job, …], "threads": 2, "imatrix": path or null}
    job: {"ftype": 2, "output": 30, "dst": path, "dry": "plain"}
         output: the output matrix's ggml_type, or null for what goes with ftype
         dry: "plain", "weighted" (as if there were an importance matrix), or null for the real thing
    out: {"job": 0, "log": text} …, then {"job": 0, "result": 0} for each job
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .imatrix import read_imatrix


def main() -> None:
    """Do the jobs of the task on standard input."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import llama_cpp as L

    current = 0

    @L.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def hear(level: int, text: bytes, _: Any) -> None:
        _tell(job=current, log=text.decode("utf-8", "replace"))

    L.llama_log_set(hear, ctypes.c_void_p())
    importance = _table(L, read_imatrix(Path(task["imatrix"]))) if task["imatrix"] else None
    for current, job in enumerate(task["jobs"]):
        params = L.llama_model_quantize_default_params()
        params.nthread, params.ftype, params.dry_run = task["threads"], job["ftype"], job["dry"] is not None
        params.allow_requantize = True
        if job["output"] is not None:
            params.output_tensor_type = job["output"]
        if job["dry"] == "weighted":
            params.imatrix = _table(L, {"any": np.ones(1, np.float32)})  # its presence alone decides about types
        elif importance is not None:
            params.imatrix = importance
        result = L.llama_model_quantize(os.fsencode(task["src"]), os.fsencode(job["dst"]), ctypes.byref(params))
        _tell(job=current, result=int(result))


def _table(L: Any, rows: Mapping[str, NDArray[np.float32]]) -> Any:
    """An importance matrix as llama.cpp takes it: an array that a nameless entry ends."""
    table = (L.llama_model_imatrix_data * (len(rows) + 1))()
    for entry, (name, values) in zip(table, rows.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    table.keep = rows
    return table


def _tell(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
