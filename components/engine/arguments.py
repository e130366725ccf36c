"""What transformers' Trainer and DeepSpeed are told, from params.yaml and infra/deepspeed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments

from components.errors import UserError
from components.files import read_json

if TYPE_CHECKING:
    from components.config.optimization import OptimizationSettings
    from components.config.training import TrainingSettings

COLLECTIVE_SECONDS = 6 * 3600  # how long a rank waits for another: text written ahead of an epoch takes hours on large data


def training_arguments(training: TrainingSettings, optimization: OptimizationSettings, root: Path, scratch: Path) -> TrainingArguments:
    """Arguments of a run. torch.distributed is set up as a side effect, so call it once in a rank, before the task is built.

    Keep them: under ZeRO-3 a checkpoint that is opened while they live is spread over the ranks as it is read.
    """
    on_cpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(scratch),
        deepspeed=deepspeed_config(root, training, on_cpu=on_cpu) if training.engine == "deepspeed" else None,
        use_cpu=on_cpu,
        ddp_backend=("gloo" if on_cpu else "nccl") if training.engine == "ddp" else None,
        ddp_timeout=COLLECTIVE_SECONDS,
        ddp_find_unused_parameters=True,  # a step of text alone does not touch the vision tower
        bf16=training.precision == "bf16",
        # One item of the trainer's data is one optimiser step; micro-batches are looped over inside it.
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        num_train_epochs=1,
        learning_rate=optimization.learning_rate,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        # DeepSpeed's own would be compiled first, for the same result. Where its state lies in CPU memory, a fused step is what keeps up.
        optim="adamw_torch" if training.offload == "none" or on_cpu else "adamw_torch_fused",
        save_strategy="steps",
        save_steps=training.checkpoint_steps,
        save_total_limit=None,  # rotation follows the commit mark: components.engine.checkpoints
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        log_level="warning",
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        seed=training.seed,
    )
    if training.engine == "deepspeed":
        import deepspeed

        # Its own view of the ranks, without which ZeRO-3 would take the first opened checkpoint for that of a lone process.
        deepspeed.init_distributed(dist_backend="gloo" if on_cpu else "nccl", timeout=timedelta(seconds=COLLECTIVE_SECONDS), verbose=False)
    return arguments


def deepspeed_config(root: Path, training: TrainingSettings, *, on_cpu: bool) -> dict[str, Any]:
    """DeepSpeed's settings for `training.zero_stage` and `training.offload`. On a CPU nothing is offloaded: all of it is in its memory."""
    config = zero_config(root, training.zero_stage)
    if training.offload != "none" and not on_cpu:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        config["zero_force_ds_cpu_optimizer"] = False  # torch's fused AdamW needs no compiler
    if training.offload == "all" and not on_cpu:
        config["zero_optimization"]["offload_param"] = {"device": "cpu", "pin_memory": True}
    return config


def zero_config(root: Path, stage: int) -> dict[str, Any]:
    """DeepSpeed's settings for a ZeRO stage, from the checkout's infra/deepspeed."""
    path = root / "infra" / "deepspeed" / f"zero{stage}.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: training.zero_stage {stage} needs it")
    config: dict[str, Any] = read_json(path)
    if config.get("zero_optimization", {}).get("stage") != stage:
        raise UserError(f"{path} must hold zero_optimization.stage {stage}, as its name says")
    return config
