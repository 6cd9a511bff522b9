"""The loss: weighted cross-entropy over the positions that carry any. Knows PyTorch, no data.

The output layer is a third of a small model's work, and its logits the largest thing in memory: they are computed for
the positions with weight only, and the gradient takes their place instead of lying beside them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..errors import BadInput

_ROWS = 256
"""Logits that are turned into gradients at a time."""


def forward(model: Any, batch: dict[str, Any]) -> Any:
    """The logits (positions, vocabulary) that foresee `batch["targets"]`, by the model's own forward."""
    output = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        segments=batch["segments"],
        logits_to_keep=batch["keep"],
        use_cache=False,
    )
    return output.logits[0]


def losses(logits: Any, targets: Any) -> Any:
    """-log p(target) of each position, in float32. Overwrites `logits`, which nobody may use afterwards."""
    return _function().apply(logits, targets)


def diverged(what: str) -> BadInput:
    """The error of a run whose numbers have left their range; it would go on without learning anything."""
    return BadInput(
        f"{what}: the training has diverged, or the base is broken.",
        "Begin anew in another folder with a smaller --learning-rate.",
    )


@cache
def _function() -> Any:
    import torch

    class Losses(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits: Any, targets: Any) -> Any:
            gradient = logits.detach()
            found = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
            for at in range(0, len(targets), _ROWS):
                rows, wanted = gradient[at : at + _ROWS], targets[at : at + _ROWS, None]
                shares = torch.log_softmax(rows.float(), dim=-1)
                found[at : at + _ROWS] = -shares.gather(1, wanted)[:, 0]
                if ctx.needs_input_grad[0]:
                    shares.exp_().scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=shares.dtype))
                    rows.copy_(shares)
            ctx.save_for_backward(gradient)
            return found

        @staticmethod
        def backward(ctx: Any, above: Any) -> Any:
            (gradient,) = ctx.saved_tensors
            return gradient.mul_(above[:, None].to(gradient.dtype)), None

    return Losses
