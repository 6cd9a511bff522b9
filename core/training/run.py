"""A training run from its options to the trained model, in a folder that a killed run goes on from.

    run.json      the options: `--run run.json --out NEW` does it again
    log.jsonl     loss, learning rate, tokens and seconds of each step; held-out figures
    loss.png      the same as a picture
    checkpoints/  the last states, to go on from
    base/         the base's checkpoint where it was a GGUF file
and at the end the model or the adapter, with its tokenizer, and done.json.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ..cache import cache_folder
from ..errors import BadInput
from ..weights.files import new_file
from .base import Base, copy_tokenizer, load_model, open_base
from .batches import Batches
from .evaluation import foresee, held_out
from .items import Source
from .options import FinetuneOptions, Options, PreferenceOptions, PretrainOptions, as_json, from_json
from .preference import Pairs, fill_reference, preference_trainer
from .records import Reports, forget_after, last_checkpoint, plot, read_log, recorder_class
from .texts import conversations_source, pairs_source, text_source

Hears = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A run before its model is loaded."""

    options: Options
    run: Path
    base: Base
    source: Source
    batches: Batches
    steps: int
    world: int
    main: bool

    def step_tokens(self, step: int) -> int:
        """Tokens of a step on all processes."""
        each = self.options.accumulate * self.world
        numbers = range(step * each, min((step + 1) * each, self.batches.real))
        return sum(len(item.ids) for number in numbers for item in self.batches.items(number))


@dataclass(frozen=True)
class Trained:
    """What a run gave."""

    path: Path
    steps: int
    loss: float
    """Of the last step."""
    held_out: dict[str, dict[str, float]]
    """Held-out figures at the end."""
    before: dict[str, dict[str, float]]
    """And before the first step."""


def prepare(options: Options, hears: Hears | None = None) -> Prepared:
    """Read the data and lay out the run. Raises `BadInput` for whatever is wrong with base, data or options."""
    run = Path(options.out)
    world, main = _processes()
    with _main_first(world):
        base = open_base(options.base, run, hears, main=main)
        _check_length(base, options)
        source = _source(options, base, hears if main else None)
    each = options.accumulate * world
    most = options.steps * each if options.steps else None
    batches = Batches(source, tokens=options.batch, epochs=options.epochs, seed=options.seed, most=most, multiple=world)
    return Prepared(options, run, base, source, batches, -(-len(batches) // each), world, main)


def train(options: Options, hears: Hears | None = None, reports: Reports | None = None) -> Trained:
    """Train, or go on where a killed run of the same options stopped. The model stands in `options.out` at the end."""
    import transformers

    say = hears or (lambda _: None)
    run = Path(options.out)
    claim(options)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()
    transformers.set_seed(options.seed)
    ready = prepare(options, say)
    if ready.main:
        with new_file(run / "run.json") as partial:
            partial.write_text(as_json(options), encoding="utf-8")
    checkpoint = last_checkpoint(run / "checkpoints")
    trainer = _trainer(ready, reports, say)
    if checkpoint and ready.main:
        say(f"Going on from {checkpoint.name}")
        forget_after(run, int(checkpoint.name.rpartition("-")[2]))
    elif ready.main:
        forget_after(run, -1)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return _finish(trainer, ready)


def claim(options: Options) -> None:
    """Raise `BadInput` unless the folder is new, or a run of the same options that was stopped."""
    run = Path(options.out)
    if (run / "done.json").is_file():
        raise BadInput(f"{run} holds a finished run.", "Name another folder with --out.")
    if (run / "run.json").is_file():
        if different := options.differences(from_json(run / "run.json")):
            raise BadInput(
                f"{run} holds a run with other options: {', '.join(different)}.",
                "Give the same ones to go on with it, or name another folder with --out.",
            )
    elif run.exists() and any(path.name != "base" and path.name[0] != "." for path in run.iterdir()):
        raise BadInput(f"{run} exists already and is no run.", "Name another folder with --out.")
    run.mkdir(parents=True, exist_ok=True)


def _trainer(ready: Prepared, reports: Reports | None, say: Hears) -> Any:
    import transformers

    from .trainer import make_trainer

    options, base = ready.options, ready.base
    vocabulary = base.tokenizer.vocabulary
    texts = [held_out(path, base.tokenizer, options.eval_characters) for path in options.eval]
    start = vocabulary.bos if vocabulary.add_bos and vocabulary.bos is not None else vocabulary.eos or 0
    window = min(1024, base.trained_window)
    model = load_model(base, options)
    kind = preference_trainer() if isinstance(options, PreferenceOptions) else None
    trainer = make_trainer(model, ready.batches, options, ready.run, ready.steps, kind)
    if isinstance(options, PreferenceOptions):
        trainer.beta, trainer.answer_loss = options.beta, options.answer_loss
        with _main_first(ready.world):  # the Trainer has put the model where it computes
            say("Computing what the untrained model gives for both answers")
            fill_reference(model, cast(Pairs, ready.source), options.batch, ready.run / "reference.npy")

    def evaluate() -> dict[str, Any]:
        found = [foresee(trainer.model_wrapped, text, start, window, options.batch) for text in texts]
        return {figures.name: {k: v for k, v in asdict(figures).items() if k != "name"} for figures in found}

    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(recorder_class()(ready.run, reports, evaluate, options.eval_every, ready.step_tokens))
    return trainer


def _finish(trainer: Any, ready: Prepared) -> Trained:
    run, partial = ready.run, ready.run / ".saving"
    trainer.save_model(str(partial))
    if ready.main:
        copy_tokenizer(ready.base, partial)
        _name_base(partial, ready.base)
        # The file that makes it a model comes last: a folder without it is not taken for one.
        for file in sorted(partial.iterdir(), key=lambda file: file.name in ("config.json", "adapter_config.json")):
            file.replace(run / file.name)
        partial.rmdir()
        plot(run)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
    lines = read_log(run)
    losses = [line["loss"] for line in lines if "loss" in line]
    figures = [line["held_out"] for line in lines if "held_out" in line]
    result = Trained(
        run,
        ready.steps,
        losses[-1] if losses else float("nan"),
        figures[-1] if figures else {},
        figures[0] if figures else {},
    )
    if ready.main:
        with new_file(run / "done.json") as file:
            file.write_text(json.dumps(asdict(result), default=str, indent=2, ensure_ascii=False), encoding="utf-8")
    return result


def _name_base(folder: Path, base: Base) -> None:
    """An adapter says where its base lies, as an absolute path."""
    file = folder / "adapter_config.json"
    if file.is_file():
        settings = json.loads(file.read_text(encoding="utf-8"))
        settings["base_model_name_or_path"] = str(base.folder.absolute())
        file.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _source(options: Options, base: Base, hears: Hears | None) -> Source:
    cache = cache_folder() / "training"
    if isinstance(options, PretrainOptions):
        return text_source(options, base, cache, hears)
    if isinstance(options, PreferenceOptions):
        return pairs_source(options, base, hears)
    assert isinstance(options, FinetuneOptions)
    return conversations_source(options, base, cache, hears)


def _check_length(base: Base, options: Options) -> None:
    if options.length > base.trained_window:
        raise BadInput(
            f"--length {options.length} is more than the model's window of {base.trained_window}.",
            "Give a smaller one.",
        )


def _processes() -> tuple[int, bool]:
    """(number of processes, whether this is the first), as torchrun and accelerate say in the environment."""
    return int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0")) == 0


@contextmanager
def _main_first(world: int) -> Iterator[None]:
    """The first process prepares what the others then find in the cache."""
    if world == 1:
        yield
        return
    import torch
    from accelerate import PartialState

    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        yield
