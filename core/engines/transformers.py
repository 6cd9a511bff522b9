"""PyTorch checkpoints, and GGUF files read into PyTorch, through transformers: the same contract as the other engines.

Knows what a request needs of PyTorch; what it has in common with other engines is in `local.py`. Forward passes are in
`torch_decoder.py`, loading in `torch_model.py`, sampling in `torch_sampling.py`, scheduling in `batching.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, UnsupportedFeature
from ..rope import Rope, RopePlan
from .base import Request
from .constraints import Constraint
from .local import LocalEngine, adapters_of
from .torch_sampling import NumpySampler
from .torch_shared import SharedModel, TransformersOptions

if TYPE_CHECKING:
    from ..catalog import ModelSource


class TransformersEngine(LocalEngine):
    """An `Engine` over PyTorch weights. Engines over the same files and settings share them."""

    def __init__(
        self,
        path: Path,
        options: TransformersOptions | None = None,
        *,
        loras: Sequence[Path] = (),
        rope: Rope | None = None,
    ) -> None:
        options = options or TransformersOptions()
        self._shared = SharedModel.of(path, options, tuple(loras), rope)
        super().__init__(self._shared, options)
        loaded, self._tokenizer = self._shared.loaded, self._shared.tokenizer
        self.vocabulary = self._tokenizer.vocabulary
        self.chat_template = self._tokenizer.chat_template
        self._extend(loaded.rope, options.context or loaded.rope.native_context)
        settings = f"{loaded.dtype} {loaded.attention} {options.quantization} {options.extension} alpha={options.alpha}"
        self.identity = f"transformers {self._shared.stamp} {settings} context={self.context}"

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        self._check_open()
        return self._tokenizer.tokenize(text, special=special)

    def token_bytes(self, token: int) -> bytes:
        self._check_open()
        self._check([token])
        return self._piece(token)

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Language models do not embed."""
        raise UnsupportedFeature(
            "The transformers engine runs language models, which make no embeddings.",
            "Use one of hanpaca.rag's embedders, or an embedding GGUF.",
        )

    def _piece(self, token: int) -> bytes:
        return self._tokenizer.token_bytes(token)

    def _sampler(self, request: Request) -> NumpySampler:
        constraint = Constraint.of(request.sampling, self._shared.tokens)
        return NumpySampler(request.sampling, self._piece, constraint)

    def _context_key(self, chosen: RopePlan) -> RopePlan:
        return chosen


def open_engine(source: ModelSource, options: Mapping[str, Any]) -> TransformersEngine:
    """The engine of a checkpoint folder or GGUF file. Raises `BadModelFile`, `BadInput`, `EngineUnavailable`."""
    assert source.path is not None
    valid = [field.name for field in dataclasses.fields(TransformersOptions)]
    for name in options:
        if name not in (*valid, "loras"):
            raise BadInput(
                f"{name!r} is not an option of the transformers engine.", f"Valid: {', '.join([*valid, 'loras'])}."
            )
    given = dict(options)
    adapters = adapters_of(source.loras) + adapters_of(given.pop("loras", ()))
    if any(scale != 1 for _, scale in adapters):
        raise BadInput(
            "The transformers engine uses LoRA adapters at their own scale.", "Give folders without a scale."
        )
    loras = [Path(path) for path, _ in adapters]
    rope = source.entry.rope if source.entry else None
    return TransformersEngine(source.path, TransformersOptions(**given), loras=loras, rope=rope)
