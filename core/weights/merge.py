"""Base checkpoint + LoRA adapters → full checkpoint, a few rows at a time, on the CPU.

Knows checkpoints and PEFT adapters, and which of them belong together. Needs no torch unless a file is in PyTorch's
format. Every change is computed in float32 and rounded once, to the base's number format.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, BadModelFile, EngineFailure
from .adapter import EMBEDDING, HEAD, Adapter, LowRank, check_vocabulary
from .checkpoint import Checkpoint, Tensor, read_tensors
from .convert import BLOCK_BYTES
from .files import Progress, need_space, new_folder
from .safetensors_file import check_finite, encode, write_safetensors
from .vocabulary_files import TOKENIZER_FILES, token_count

_KEPT = ("generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*", "README.md")
_SAMPLE_ROWS = 16


@dataclass
class _Target:
    """One tensor of the result."""

    name: str
    source: Tensor
    """Where its numbers start from: the base, or the last adapter that trained it in full."""
    dtype: str
    changes: list[LowRank] = field(default_factory=list)

    @property
    def described(self) -> Tensor:
        return replace(self.source, name=self.name, dtype=self.dtype)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Its numbers, block by block."""
        if not self.changes and self.source.dtype == self.dtype:
            step = max(1, BLOCK_BYTES // max(1, 4 * self.source.columns))
            for start in range(0, self.source.rows, step):
                rows = self.source.raw(start, min(start + step, self.source.rows))
                check_finite(rows, self.name)
                yield rows
            return
        step = max(1, BLOCK_BYTES // max(1, 8 * self.source.columns))
        for start in range(0, self.source.rows, step):
            stop = min(start + step, self.source.rows)
            rows = self.source.read(start, stop)
            for change in self.changes:
                rows = rows + change.delta(start, stop)
            yield encode(np.ascontiguousarray(rows), self.dtype, self.name)


def merge(
    base: Path,
    loras: Sequence[Path],
    out: Path,
    verify: bool = False,
    on_progress: Progress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Path:
    """Merge PEFT adapters in turn into the checkpoint `base` and write the result to the new folder `out`.

    The folder gets safetensors of the base's shards and number format, config and tokenizer, and appears only when
    complete. `verify` recomputes rows of every tensor in float64 and compares. Raises `BadInput` for adapters that do
    not belong to this base or to each other, or too little disk; `BadModelFile` for broken files; `UnsupportedFeature`
    for adapters that are no plain LoRA.
    """
    if not loras:
        raise BadInput("No LoRA adapter was given.", "Name at least one adapter folder.")
    model, adapters = Checkpoint.open(Path(base)), [Adapter.open(Path(folder)) for folder in loras]
    say = on_note or (lambda _: None)
    targets, config = _plan(model, adapters, say)
    tokenizer = _tokenizer(model, adapters, targets)
    total = sum(target.described.nbytes for target in targets.values())
    need_space(Path(out).parent, total + (64 << 20))
    with new_folder(Path(out)) as partial:
        _write_weights(partial, model, targets, total, on_progress)
        if verify:
            say(f"Verified: {_verify(partial, targets)} tensors recomputed in float64.")
        (partial / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _copy(model.folder, partial, _KEPT)
        _copy(tokenizer, partial, TOKENIZER_FILES)
    return Path(out)


def _plan(
    model: Checkpoint, adapters: Sequence[Adapter], say: Callable[[str], None]
) -> tuple[dict[str, _Target], dict[str, Any]]:
    """The tensors of the result and its config."""
    config = dict(model.config)
    if EMBEDDING not in model.tensors:
        raise BadModelFile(f"{model.folder} lacks {EMBEDDING}.", "Fetch its files again, all shards.")
    targets = {name: _Target(name, tensor, tensor.dtype) for name, tensor in model.tensors.items()}
    trained = {name for adapter in adapters for name in (*adapter.full, *adapter.low_rank)}
    if config.get("tie_word_embeddings"):
        targets.pop(HEAD, None)
        if trained & {EMBEDDING, HEAD} and not any(adapter.config.get("ensure_weight_tying") for adapter in adapters):
            targets[HEAD] = replace(targets[EMBEDDING], name=HEAD, changes=[])
            config["tie_word_embeddings"] = False
            say("The base ties its head to its embedding, and the adapter trains one of them: the result unties them.")
    for adapter in adapters:
        check_vocabulary(adapter, targets[EMBEDDING].source.shape[0])
        _apply(adapter, targets)
    rows = targets[EMBEDDING].source.shape[0]
    if HEAD in targets and targets[HEAD].source.shape[0] != rows:
        raise BadInput(
            f"The embedding gets {rows} rows and the head keeps {targets[HEAD].source.shape[0]}.",
            "The adapter must bring both (modules_to_save: embed_tokens, lm_head).",
        )
    config["vocab_size"] = rows
    return targets, config


def _apply(adapter: Adapter, targets: dict[str, _Target]) -> None:
    for name, tensor in adapter.full.items():
        target = targets.get(name)
        if name == HEAD and target is None and adapter.config.get("ensure_weight_tying") and EMBEDDING in adapter.full:
            continue  # PEFT saves the tied layer under both names
        grows = name in (EMBEDDING, HEAD) and target is not None and tensor.shape[1:] == target.source.shape[1:]
        if target is None or (tensor.shape != target.source.shape and not grows):
            raise _foreign(adapter, name, tensor.shape, target)
        target.source, target.changes = tensor, []
    for name, change in adapter.low_rank.items():
        target = targets.get(name)
        if target is None or change.shape != target.source.shape:
            raise _foreign(adapter, name, change.shape, target)
        target.changes.append(change)


def _foreign(adapter: Adapter, name: str, shape: tuple[int, ...], target: _Target | None) -> BadInput:
    has = f"the base has it as {list(target.source.shape)}" if target else "the base has no such tensor"
    return BadInput(
        f"{adapter.folder.name} changes {name} of shape {list(shape)}, and {has}.",
        f"It was trained on another model: {adapter.config.get('base_model_name_or_path') or 'it does not say which'}.",
    )


def _tokenizer(model: Checkpoint, adapters: Sequence[Adapter], targets: Mapping[str, _Target]) -> Path:
    """The folder with the result's tokenizer: the last adapter's that has one, or the base's."""
    for adapter in reversed(adapters):
        if token_count(adapter.folder) is not None:
            return adapter.folder
    rows, tokens = targets[EMBEDDING].source.shape[0], token_count(model.folder)
    if rows != model.tensors[EMBEDDING].shape[0]:
        raise BadInput(
            f"The adapters bring a vocabulary of {rows} and no tokenizer; the base's has {tokens} tokens.",
            "Put the tokenizer they were trained with into the adapter's folder.",
        )
    return model.folder


def _write_weights(
    folder: Path, model: Checkpoint, targets: Mapping[str, _Target], total: int, on_progress: Progress | None
) -> None:
    """The result in as many files as the base has, with an index where that is more than one."""
    done = 0

    def counted(target: _Target) -> Iterator[NDArray[Any]]:
        nonlocal done
        for block in target.blocks():
            yield block
            done += block.nbytes
            if on_progress:
                on_progress(done, total)

    files = sorted({tensor.file for tensor in model.tensors.values()})
    index: dict[str, str] = {}
    for number, file in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors" if len(files) > 1 else "model.safetensors"
        here = [t for t in targets.values() if _file_of(t, model) == file]
        write_safetensors(folder / name, {t.name: (t.described, lambda t=t: counted(t)) for t in here})  # type: ignore[misc]
        index |= {t.name: name for t in here}
    if len(files) > 1:
        table = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _file_of(target: _Target, model: Checkpoint) -> Path:
    """The base's file in whose counterpart a tensor goes; a head that was tied goes with the embedding."""
    return model.tensors[target.name if target.name in model.tensors else EMBEDDING].file


def _verify(folder: Path, targets: Mapping[str, _Target]) -> int:
    """Recompute some rows of every tensor in float64. Raises `EngineFailure` where the file says something else."""
    written = read_tensors(folder, ("model",))
    rng = np.random.default_rng(0)
    step = {"F32": 2.0**-22, "F16": 2.0**-10, "BF16": 2.0**-7}
    for name, target in targets.items():
        for row in rng.integers(0, target.source.rows, _SAMPLE_ROWS).tolist():
            wanted = target.source.read(row, row + 1).astype(np.float64)
            for change in target.changes:
                wanted = wanted + change.delta(row, row + 1, np.float64)
            found = written[name].read(row, row + 1)
            if not np.abs(found - wanted).max() <= step[target.dtype] * max(1e-3, np.abs(wanted).max()):
                raise EngineFailure(
                    f"Row {row} of {name} was not written as computed.", "Check the disk and merge again."
                )
    if written.keys() != targets.keys():
        raise BadModelFile("The result lacks tensors.", "Merge again.")
    return len(targets)


def _copy(source: Path, target: Path, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, target / file.name)
