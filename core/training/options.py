"""What a training run is: one frozen dataclass for each kind, every field documented where it stands.

The command line's options, the file `run.json` that reproduces a run, and the comparison on resuming derive from these.
Defaults are the published values of Chinese-LLaMA-2 and Chinese-Alpaca-2 where there are any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, get_args

from ..errors import BadInput
from .rows import BadRows
from .types import wrong_type

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TRAINED = ("embed_tokens", "lm_head")
LORA = ("rank", "alpha", "dropout", "targets", "also")
"""Fields that say nothing where every weight is trained."""
_CHOICES = {
    "method": ("lora", "full"),
    "schedule": (
        "cosine",
        "linear",
        "constant",
        "constant_with_warmup",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
    ),
    "quantization": (None, "8bit", "4bit"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "checkpointing": ("auto", "on", "off"),
    "bad_rows": get_args(BadRows),
}
_POLYNOMIAL_END = 1e-7
"""Where transformers lets this schedule end."""
_PLACES = frozenset({"out", "log_every", "threads", "tensorboard", "keep"})
"""Fields that do not change what is learned: a resumed run may have others."""


@dataclass(frozen=True)
class Options:
    """What every kind of training has."""

    kind: ClassVar[str] = ""

    base: str
    """The model to start from: a checkpoint folder, a GGUF file, or a name from `hanpaca models`."""
    data: tuple[str, ...]
    """Files or folders to train on."""
    out: str
    """The folder of the run; the trained model or adapter stands in it at the end."""
    eval: tuple[str, ...] = ()
    """Held-out files of plain text: bits per character and perplexity are measured on each."""
    method: str = "lora"
    """lora: low-rank pairs beside the weights; full: every weight."""
    rank: int = 64
    """Rank of the LoRA pairs."""
    alpha: float = 128.0
    """Scale of the LoRA pairs, over the rank."""
    dropout: float = 0.05
    """Dropout in front of the LoRA pairs."""
    targets: tuple[str, ...] = PROJECTIONS
    """Layers that get LoRA pairs."""
    also: tuple[str, ...] = TRAINED
    """Layers trained whole beside LoRA; none: give an empty one."""
    quantization: str | None = None
    """8bit or 4bit: bitsandbytes holds the base smaller, for LoRA."""
    dtype: str = "auto"
    """Number format of the forward pass: float32, bfloat16, float16, or auto: bfloat16 where the processor has it."""
    checkpointing: str = "auto"
    """Recompute activations instead of keeping them: on, off, or auto: on a GPU."""
    length: int = 512
    """Longest example or block, in tokens."""
    batch: int = 4096
    """Tokens of one forward pass, packed from whole examples without padding."""
    accumulate: int = 8
    """Forward passes of one step."""
    epochs: float = 1.0
    """Passes over the data."""
    steps: int | None = None
    """Most steps; None: as the epochs give."""
    learning_rate: float = 2e-4
    """Highest learning rate."""
    schedule: str = "cosine"
    """How the learning rate falls: cosine, linear, constant, or another that transformers names without settings."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    clip: float = 1.0
    """Longest gradient."""
    seed: int = 0
    """Decides the order of the data, dropout and new weights."""
    save_every: int = 200
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints that are kept."""
    eval_every: int | None = None
    """Steps between evaluations; None: before the first step and after the last."""
    eval_characters: int = 20_000
    """How much of each held-out file is used, from its beginning."""
    log_every: int = 1
    """Steps between lines of the log."""
    threads: int | None = None
    """CPU threads; None: PyTorch's own choice."""
    tensorboard: bool = False
    """Write a TensorBoard log too."""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
            if wrong := wrong_type(getattr(self, field.name), str(field.type)):
                raise BadInput(f"--{_dashed(field.name)} is {wrong}, not {getattr(self, field.name)!r}.", "Mend it.")
        for name, valid in _CHOICES.items():
            if hasattr(self, name) and getattr(self, name) not in valid:
                shown = ", ".join(str(value) for value in valid if value is not None)
                raise BadInput(f"--{_dashed(name)} {getattr(self, name)!r} is not known.", f"Valid: {shown}.")
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name, None)
            if value is not None and not (isinstance(value, int | float) and low <= value <= high):
                raise BadInput(f"--{_dashed(name)} lies between {low:g} and {high:g}, not {value}.", "Choose another.")
        if self.quantization and self.method != "lora":
            raise BadInput("A base in 8 or 4 bits can only be trained with LoRA.", "Use --method lora.")
        if self.batch < self.length:
            raise BadInput(
                f"A batch of {self.batch} tokens does not hold an example of {self.length}.",
                "Give a larger --batch or a smaller --length.",
            )
        if self.method == "lora" and not self.targets:
            raise BadInput("LoRA without --targets trains nothing.", f"Usual: {' '.join(PROJECTIONS)}.")
        if self.schedule == "polynomial" and self.learning_rate <= _POLYNOMIAL_END:
            raise BadInput(
                f"--schedule polynomial falls to {_POLYNOMIAL_END:g}, and --learning-rate is no more than that.",
                "Give a larger rate or another schedule.",
            )
        if not self.data:
            raise BadInput("There is nothing to train on.", "Name files or folders.")

    def differences(self, other: Options) -> list[str]:
        """Names of the fields in which another run would learn something else."""
        return [
            field.name
            for field in fields(self)
            if field.name not in _PLACES and getattr(self, field.name) != getattr(other, field.name)
        ]


@dataclass(frozen=True)
class PretrainOptions(Options):
    """Continued pre-training on plain text."""

    kind: ClassVar[str] = "pretrain"

    mix: tuple[str, ...] = ()
    """More text with its share of all tokens, as PATH=SHARE: `english.txt=0.1`."""
    deduplicate: bool = True
    """Leave out paragraphs that occurred before."""
    near_duplicates: float | None = None
    """Leave out paragraphs that are nearly the same too: the share of common 5-grams, 0.5 to 1."""


@dataclass(frozen=True)
class FinetuneOptions(Options):
    """Instruction tuning: the loss is on answers."""

    kind: ClassVar[str] = "finetune"

    learning_rate: float = 1e-4
    """Highest learning rate."""
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    template: str | None = None
    """Chat template: llama-2, metadata (the model's own), or a Jinja file; None: the model's, as in `hanpaca chat`."""
    system: str | None = None
    """System prompt where a conversation has none: default, long, none, or a text; None: the template's own."""
    prompt_weight: float = 0.0
    """What tokens of the prompts count in the loss, where those of answers count 1."""
    bad_rows: str = "stop"
    """stop at rows that cannot be trained on, or skip them; both say which."""


@dataclass(frozen=True)
class PreferenceOptions(FinetuneOptions):
    """Direct preference optimisation (DPO, Rafailov et al. 2023)."""

    kind: ClassVar[str] = "prefer"

    learning_rate: float = 5e-6
    """Highest learning rate."""
    also: tuple[str, ...] = ()
    """Layers trained whole beside LoRA."""
    beta: float = 0.1
    """How strongly the model is held to where it began."""
    answer_loss: float = 0.0
    """Weight of the usual loss on the chosen answers, beside DPO's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt_weight:
            raise BadInput("--prompt-weight does nothing here: both answers have the same prompt.", "Leave it out.")


KINDS: Mapping[str, type[Options]] = {kind.kind: kind for kind in (PretrainOptions, FinetuneOptions, PreferenceOptions)}

_LIMITS: Mapping[str, tuple[float, float]] = {
    "rank": (1, 4096), "alpha": (0, 1e6), "dropout": (0, 0.9), "length": (8, 2**20), "batch": (8, 2**24),
    "accumulate": (1, 2**16), "epochs": (0.001, 1e4), "steps": (1, 2**31), "learning_rate": (0, 1),
    "warmup": (0, 1), "weight_decay": (0, 10), "clip": (0, 1e6), "seed": (0, 2**31), "save_every": (1, 2**31),
    "keep": (1, 1000), "eval_every": (1, 2**31), "log_every": (1, 2**31), "eval_characters": (100, 2**31),
    "threads": (1, 1024),
    "near_duplicates": (0.5, 0.999), "prompt_weight": (0, 1), "beta": (1e-4, 100), "answer_loss": (0, 100),
}  # fmt: skip


def as_json(options: Options) -> str:
    """The options as the file that reproduces the run."""
    return json.dumps({"kind": options.kind, "options": asdict(options)}, indent=2, ensure_ascii=False) + "\n"


def from_json(file: Path, **changes: Any) -> Options:
    """The options of a `run.json`, with changes. Raises `BadInput` for a file that is none, or for unknown options."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        kind, values = KINDS[found["kind"]], dict(found["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{file} is damaged, or no run of `hanpaca pretrain`, `finetune` or `prefer`.",
            "Restore it, or name another folder with --out.",
        ) from error
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise BadInput(f"{file} has options that are not known: {', '.join(unknown)}.", _valid(known))
    return make(kind, values | changes)


def make(kind: type[Options], values: Mapping[str, Any]) -> Options:
    """Options of a kind. Raises `BadInput` for what is unknown or missing."""
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(set(values) - set(known)):
        raise BadInput(f"{', '.join(unknown)}: no option of {kind.kind}.", _valid(known))
    missing = [name for name, field in known.items() if field.default is MISSING and name not in values]
    if missing:
        raise BadInput(f"{kind.kind} needs {', '.join(missing)}.", _valid(known))
    return kind(**values)


def _plain(value: Any) -> Any:
    """As `run.json` can hold it and compare: lists become tuples, and paths texts."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return str(value) if isinstance(value, Path) else value


def _valid(names: Any) -> str:
    return f"Valid: {', '.join(sorted(names))}."


def _dashed(name: str) -> str:
    return name.replace("_", "-")
