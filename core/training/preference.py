"""Direct preference optimisation: of two answers the better one is to become likelier, held to where the model began.

loss = -log σ(β · ((log p(chosen) - log p₀(chosen)) - (log p(rejected) - log p₀(rejected)))), Rafailov et al. 2023,
where p₀ is the model before the first step; its figures are computed once and kept. TRL's `DPOTrainer` computes the
same, but tokenises with transformers' tokenizers and pads; so only the formula is shared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..weights.files import new_file
from .batches import Batch, collate
from .conversations import Encoder
from .items import Item, shuffled
from .loss import forward, losses
from .rows import Preference
from .trainer import trainer_class


@dataclass(eq=False)
class Pairs:
    """Pairs of answers: an item is the conversation with the chosen one, then with the rejected one."""

    items: list[Item]
    left_out: int
    """Pairs that are longer than an example."""
    refused: tuple[str, ...] = ()
    """Rows that were left out: place and reason."""
    reference: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    """log p₀ of both answers of each pair; filled before the first step."""

    @classmethod
    def of(cls, rows: Sequence[Preference], encoder: Encoder, refused: tuple[str, ...] = ()) -> Pairs:
        """Tokenise. Raises `BadInput` where none fits."""
        found, left_out = [], 0
        for row in rows:
            prompt = encoder.prompt(row.messages)
            answers = [encoder.answer(row.messages, prompt, text) for text in (row.chosen, row.rejected)]
            if len(prompt) + max(map(len, answers)) > encoder.length or answers[0] == answers[1]:
                left_out += 1
                refused = (*refused, f"{row.place}: the pair is longer than --length, or both answers are the same")
                continue
            ids = [token for answer in answers for token in (*prompt, *answer)]
            weights = [weight for answer in answers for weight in (*[0.0] * len(prompt), *[1.0] * len(answer))]
            segments = tuple(len(prompt) + len(answer) for answer in answers)
            found.append(Item(np.array(ids, np.uint32), np.array(weights, np.float32), segments))
        if not found:
            raise BadInput("No pair of answers fits.", "Give a larger --length.")
        return cls(found, left_out, refused)

    @cached_property
    def identity(self) -> str:
        """Changes when the pairs, their order or their tokens do."""
        whole = sha256()
        for item in self.items:
            whole.update(item.ids.tobytes() + b"|" + repr(item.segments).encode())
        return whole.hexdigest()[:24]

    def __len__(self) -> int:
        return len(self.items)

    def item(self, number: int) -> Item:
        """Both texts of a pair."""
        return self.items[number]

    def epoch(self, number: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `Source.epoch`."""
        order = shuffled(len(self), number, seed)
        return order, np.array([len(self.items[item].ids) for item in order.tolist()], dtype=np.int64)

    def extra(self, numbers: Sequence[int]) -> Batch:
        """What p₀ gave for the pairs of a batch."""
        import torch

        found = self.reference[list(numbers)] if len(self.reference) else np.zeros((len(numbers), 2), np.float32)
        return {"reference": torch.from_numpy(found)}


def answer_sums(model: Any, batch: Batch) -> Any:
    """(pairs, 2): log p of the chosen and of the rejected answer of each pair in a batch."""
    import torch

    rows = -losses(forward(model, batch), batch["targets"]) * batch["weights"]
    sums = torch.zeros(len(batch["segments"]), dtype=rows.dtype, device=rows.device)
    return sums.index_add(0, batch["owner"], rows).view(-1, 2)


def fill_reference(model: Any, pairs: Pairs, tokens: int, file: Path) -> None:
    """Compute what the untrained model gives, or read it from `file`, where it is kept for resuming."""
    import torch

    if file.is_file():
        pairs.reference = np.load(file)
        return
    model.eval()
    found: list[Any] = []
    device = next(model.parameters()).device
    with torch.no_grad():
        at = 0
        while at < len(pairs):
            group = [at]
            while group[-1] + 1 < len(pairs) and _length(pairs, [*group, group[-1] + 1]) <= tokens:
                group.append(group[-1] + 1)
            batch = collate([pairs.item(number) for number in group])
            moved = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
            found.append(answer_sums(model, moved).float().cpu().numpy())
            at = group[-1] + 1
    pairs.reference = np.concatenate(found)
    with new_file(file) as partial, partial.open("wb") as stream:
        np.save(stream, pairs.reference)


def _length(pairs: Pairs, numbers: Sequence[int]) -> int:
    return sum(len(pairs.item(number).ids) for number in numbers)


@cache
def preference_trainer() -> Any:
    """The Trainer of this kind of run; made when first used."""
    import torch

    class PreferenceTraining(trainer_class()):  # type: ignore[misc]
        """DPO's loss, each pair counting the same."""

        beta = 0.1
        answer_loss = 0.0

        def batch_weight(self, batch: Batch) -> Any:
            return torch.tensor(float(len(batch["reference"])))

        def batch_loss(self, model: Any, batch: Batch) -> Any:
            if not len(batch["reference"]):  # a batch that only fills up: its loss is zero
                return (losses(forward(model, batch), batch["targets"]) * batch["weights"]).sum()
            sums = answer_sums(model, batch)
            gained = sums - batch["reference"]
            margins = self.beta * (gained[:, 0] - gained[:, 1])
            self.seen = [*getattr(self, "seen", []), margins.detach()]
            loss = -torch.nn.functional.logsigmoid(margins).sum()
            if self.answer_loss:
                counts = torch.zeros(len(batch["segments"]), device=sums.device)
                counts = counts.index_add(0, batch["owner"], torch.ones_like(batch["weights"])).view(-1, 2)
                loss = loss - self.answer_loss * (sums[:, 0] / counts[:, 0]).sum()
            return loss

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if getattr(self, "seen", None) and "loss" in logs:
                margins = torch.cat(self.seen)
                logs["accuracy"] = float((margins > 0).float().mean())
                logs["margin"] = float(margins.mean())
                self.seen = []
            super().log(logs, start_time)

    return PreferenceTraining
