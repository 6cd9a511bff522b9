"""Perplexity of a text's last tokens by one PyTorch prefill over the engine's own weights and plans.

On CPUs PyTorch's attention over a whole text takes a third of the time that llama.cpp's cached one takes. The logits
are the same: `tests/core/test_torch_decoder.py` compares both engines beyond the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from hanpaca.core.engines.torch_model import Loaded, load
from hanpaca.core.engines.torch_tokenizer import open_tokenizer
from hanpaca.core.rope import RopePlan


class TorchPrefill:
    """A model's weights in F32, and its tokens."""

    def __init__(self, path: Path, threads: int | None) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.loaded: Loaded = load(path, device="cpu", dtype="float32", quantization=None, loras=())
        self._tokenizer = open_tokenizer(self.loaded.tokenizer, self.loaded.rows)

    def tokenize(self, text: str) -> list[int]:
        return list(self._tokenizer.tokenize(text, special=False))

    def perplexity(self, plan: RopePlan, tokens: Sequence[int], tail: int) -> float:
        """Of the last `tail` of `tokens` behind those before them, `plan.context` in all, BOS included."""
        import torch

        vocabulary = self._tokenizer.vocabulary
        bos = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else []
        ids = torch.tensor([[*bos, *tokens[len(tokens) - plan.context + len(bos) :]]])
        with torch.inference_mode():
            out = self.loaded.shell(plan)(input_ids=ids, use_cache=False, logits_to_keep=tail + 1).logits[0, :-1]
            found = torch.log_softmax(out.double(), -1).gather(1, ids[0, -tail:, None])
        return math.exp(-float(found.mean()))
