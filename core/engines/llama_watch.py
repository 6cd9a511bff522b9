"""Looks at what a llama.cpp context computes on the way: named tensors of its passes, as numpy arrays.

Knows ggml's callback and three of its functions, no fields of its structures, which change from version to version.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineUnavailable
from .llama_native import library


class Watch:
    """Hears every tensor whose name without the layer's number (`attn_norm` of `attn_norm-3`) is among `kinds`.

    `hear` gets the full name and the values, flat, float32, from within the pass. What it raises is kept in `error`;
    the pass is not worth anything then, though llama.cpp says nothing of it.
    """

    def __init__(self, kinds: Collection[str], hear: Callable[[str, NDArray[np.float32]], None]) -> None:
        self._kinds = frozenset(kinds)
        self._hear = hear
        self._ggml = _functions()
        self.error: BaseException | None = None
        self.callback = library().ggml_backend_sched_eval_callback(self._called)

    def _called(self, tensor: int, ask: bool, _: Any) -> bool:
        """ggml asks first whether a tensor is wanted, then shows it; False then skips the rest."""
        try:
            name = self._ggml.ggml_get_name(tensor).decode()
            wanted = name.partition("-")[0] in self._kinds
            if wanted and not ask:
                self._hear(name, self._values(tensor))
        except BaseException as error:  # it cannot pass through native code
            self.error = self.error or error
            return False
        return wanted or not ask

    def _values(self, tensor: int) -> NDArray[np.float32]:
        size = self._ggml.ggml_nbytes(tensor)
        values = np.empty(size // 4, np.float32)
        self._ggml.ggml_backend_tensor_get(tensor, values.ctypes.data, 0, size)
        return values


def _functions() -> Any:
    """ggml's functions; the library that llama-cpp-python loaded finds them in the ones it depends on."""
    lib = library().llama_cpp._lib
    try:
        lib.ggml_get_name.argtypes, lib.ggml_get_name.restype = [ctypes.c_void_p], ctypes.c_char_p
        lib.ggml_nbytes.argtypes, lib.ggml_nbytes.restype = [ctypes.c_void_p], ctypes.c_size_t
        lib.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        lib.ggml_backend_tensor_get.restype = None
    except AttributeError as error:
        raise EngineUnavailable(
            f"This build of llama-cpp-python hides ggml's functions: {error}.", "Build it as the README says."
        ) from None
    return lib
