"""transformers' `Trainer` over our batches and our loss. Knows no files of data and no command line.

The whole run is one "epoch" of the Trainer: its batches are laid out beforehand, so that resuming only skips.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from .batches import Batch, Batches
from .loss import diverged, forward, losses
from .options import Options
from .precision import autocast

CHECKPOINTS = "checkpoints"


def arguments(options: Options, run: Path, steps: int) -> Any:
    """`TrainingArguments` for a run. What `torchrun` and `accelerate launch` set up comes from the environment."""
    import torch
    import transformers

    number = autocast(options.dtype)
    gpu = torch.cuda.is_available()
    recompute = options.checkpointing == "on" or (options.checkpointing == "auto" and gpu)
    return transformers.TrainingArguments(
        output_dir=str(run / CHECKPOINTS),
        use_cpu=not gpu and not torch.backends.mps.is_available(),
        ddp_backend="gloo" if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not gpu else None,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=options.accumulate,
        max_steps=steps,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.schedule,
        warmup_steps=round(options.warmup * steps),
        weight_decay=options.weight_decay,
        max_grad_norm=options.clip,
        optim="adamw_torch_fused" if not os.environ.get("ACCELERATE_USE_DEEPSPEED") else "adamw_torch",
        bf16=number == "bfloat16",
        fp16=number == "float16",
        activation_checkpointing=recompute,
        activation_checkpointing_kwargs={"use_reentrant": False} if recompute else None,
        save_strategy="steps",
        save_steps=options.save_every,
        save_total_limit=options.keep,
        logging_strategy="steps",
        logging_steps=options.log_every,
        logging_nan_inf_filter=False,
        report_to=["tensorboard"] if options.tensorboard else [],
        seed=options.seed,
        data_seed=options.seed,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_pin_memory=gpu,
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
    )


def only(batches: list[Batch]) -> Batch:
    """The data loader's "batch" of one."""
    return batches[0]


@cache
def trainer_class() -> Any:
    """Our Trainer; made when first used, for transformers is heavy."""
    import torch
    import transformers

    class Training(transformers.Trainer):
        """Weighted loss over packed batches, its sum divided by all weights of a step on all processes."""

        loss_is_scaled_for_ga = True

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
            total = sum((self.batch_weight(batch) for batch in batch_samples), torch.zeros(())).to(device)
            if self.args.world_size > 1:
                total = self.accelerator.gather(total[None]).sum()
            return total.clamp(min=1e-6)

        def compute_loss(
            self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            loss = self.batch_loss(model, inputs) / num_items_in_batch
            return loss * self.accelerator.num_processes  # the gradients of processes are averaged

        def batch_weight(self, batch: Batch) -> Any:
            """What a batch counts among those of a step."""
            return batch["weights"].sum()

        def batch_loss(self, model: Any, batch: Batch) -> Any:
            """The sum over a batch; kinds of training that are more than this override it."""
            return (losses(forward(model, batch), batch["targets"]) * batch["weights"]).sum()

        def floating_point_ops(self, inputs: Any) -> int:
            return 0  # transformers' count builds tensors for each batch, and nobody reads it

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            """Weights only, as safetensors: the Trainer would also pickle its arguments."""
            if not self.args.should_save:
                return
            save_weights(self.accelerator.unwrap_model(self.model), Path(str(output_dir)), state_dict)

    return Training


def save_weights(model: Any, folder: Path, state: Any = None) -> None:
    """An adapter, or all weights, as safetensors. Raises `BadInput` where one of them is no number."""
    for name, weights in (state if state is not None else dict(model.named_parameters())).items():
        if weights.is_floating_point() and not bool(weights.isfinite().all()):
            raise diverged(f"{name} holds what is no number")
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "peft_config"):
        model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False, safe_serialization=True)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    else:
        model.save_pretrained(str(folder), state_dict=state)


def make_trainer(model: Any, batches: Batches, options: Options, run: Path, steps: int, kind: Any = None) -> Any:
    """A Trainer for a run."""
    cached = model.config.use_cache
    made = (kind or trainer_class())(
        model=model, args=arguments(options, run, steps), train_dataset=batches, data_collator=only
    )
    made.loss_is_scaled_for_ga = True
    model.config.use_cache = cached  # it is saved with the model; our forward passes say themselves that they need none
    return made
