"""A training run from its options to the trained model, in a folder that a killed run goes on from.

    run.json      the options: `--run run.json --out NEW` does it again
    log.jsonl     loss, learning rate, steps, tokens and seconds since the line before; held-out figures
    loss.png      the same as a picture
    data.json     which data, so that a run goes on with no other
    left-out.txt  rows that are not trained on, where there are any, and why
    checkpoints/  the last states, to go on from
    base/         the base's checkpoint where it was a GGUF file
and at the end the model or the adapter, with its tokenizer, and done.json.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ..cache import cache_folder
from ..errors import BadInput
from ..weights.files import need_space, new_file
from .base import Base, check_layers, copy_tokenizer, load_model, open_base
from .batches import Batches
from .evaluation import HeldOut, foresee, held_out
from .items import Source
from .options import FinetuneOptions, Options, PreferenceOptions, PretrainOptions, as_json
from .preference import Pairs, fill_reference, preference_trainer
from .records import Reports, forget_after, last_checkpoint, plot, read_log, recorder_class
from .resuming import DATA, REFERENCE, alone, claim, data_of, left_out, same_data
from .stopping import leave, stopper_class, stopping
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
    texts: list[HeldOut]
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
        if options.method == "lora":
            check_layers(base, options)
        source = _source(options, base, hears if main else None)
    names = [Path(path).name for path in options.eval]
    texts = [
        held_out(path, base.tokenizer, options.eval_characters, path if names.count(name) > 1 else name)
        for path, name in zip(options.eval, names, strict=True)
    ]
    each = options.accumulate * world
    most = options.steps * each if options.steps else None
    batches = Batches(source, tokens=options.batch, epochs=options.epochs, seed=options.seed, most=most, multiple=world)
    return Prepared(options, run, base, source, batches, texts, -(-len(batches) // each), world, main)


def train(options: Options, hears: Hears | None = None, reports: Reports | None = None) -> Trained:
    """Train, or go on where a run of the same options stopped. The model stands in `options.out` at the end.

    SIGINT (Ctrl+C) and SIGTERM end it after the step under way, whose state is saved, with `KeyboardInterrupt` or
    `SystemExit`; of several processes, and outside of the main thread, they do as ever.
    """
    with alone(Path(options.out)) if _processes()[1] else nullcontext():
        claim(options)
        return _train(options, hears or (lambda _: None), reports)


def _train(options: Options, say: Hears, reports: Reports | None) -> Trained:
    import transformers

    run = Path(options.out)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()
    transformers.set_seed(options.seed)
    ready = prepare(options, say)
    checkpoint = last_checkpoint(run / "checkpoints")
    data = data_of(ready.source, ready.base)
    same_data(run, data)
    trainer = _trainer(ready, reports)
    if ready.main:
        need_space(run, _room(ready, trainer.model))
        # Nothing is wrong with the options, then.
        _write(run / "run.json", as_json(options))
        _write(run / DATA, json.dumps(data))
        if rows := left_out(ready.source):
            _write(run / "left-out.txt", "\n".join(rows) + "\n")
            say(f"Every row that is left out: {run / 'left-out.txt'}")
    if isinstance(options, PreferenceOptions):
        # The Trainer has put the model where it computes; the number format comes with its first step only.
        with _main_first(ready.world), trainer.accelerator.autocast():
            say("Computing what the untrained model gives for both answers")
            fill_reference(trainer.model, cast(Pairs, ready.source), options.batch, run / REFERENCE)
    if checkpoint and ready.main:
        say(f"Going on from {checkpoint.name}")
        forget_after(run, int(checkpoint.name.rpartition("-")[2]))
    elif ready.main:
        forget_after(run, -1)
    _run(trainer, checkpoint, say if ready.world == 1 else None)
    return _finish(trainer, ready)


def _run(trainer: Any, checkpoint: Path | None, say: Hears | None) -> None:
    """The steps. With `say` a signal ends them after the one that is under way; of several processes each would end
    after another one."""
    resume = str(checkpoint) if checkpoint else None
    if say is None:
        trainer.train(resume_from_checkpoint=resume)
        return
    with stopping(say) as stop:
        trainer.add_callback(stopper_class()(stop))
        trainer.train(resume_from_checkpoint=resume)
    if stop.signal is not None and trainer.state.global_step < trainer.state.max_steps:
        say(f"Stopped after step {trainer.state.global_step}, saved; the same command goes on from there")
        leave(stop.signal)


def _trainer(ready: Prepared, reports: Reports | None) -> Any:
    import transformers

    from .trainer import make_trainer

    options, base = ready.options, ready.base
    vocabulary = base.tokenizer.vocabulary
    start = vocabulary.bos if vocabulary.add_bos and vocabulary.bos is not None else vocabulary.eos or 0
    window = min(1024, base.trained_window)
    model = load_model(base, options)
    kind = preference_trainer() if isinstance(options, PreferenceOptions) else None
    trainer = make_trainer(model, ready.batches, options, ready.run, ready.steps, kind)
    if isinstance(options, PreferenceOptions):
        trainer.beta, trainer.answer_loss = options.beta, options.answer_loss

    def evaluate() -> dict[str, Any]:
        found = [foresee(trainer.model_wrapped, text, start, window, options.batch) for text in ready.texts]
        return {figures.name: {k: v for k, v in asdict(figures).items() if k != "name"} for figures in found}

    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(recorder_class()(ready.run, reports, evaluate, options.eval_every, ready.step_tokens))
    return trainer


def _room(ready: Prepared, model: Any) -> int:
    """Bytes of the checkpoints that will lie beside each other and of the result, each number as float32: a checkpoint
    has AdamW's two beside each that is trained."""
    trained: int = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    most = min(-(-ready.steps // ready.options.save_every), ready.options.keep + 1)
    there = len(list((ready.run / "checkpoints").glob("checkpoint-*")))
    return 4 * trained * (3 * max(1, most - there) + 1)


def _write(file: Path, text: str) -> None:
    with new_file(file) as partial:
        partial.write_text(text, encoding="utf-8")


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
        _write(run / "done.json", json.dumps(asdict(result), default=str, indent=2, ensure_ascii=False))
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
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
