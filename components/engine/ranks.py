"""What a process knows of those that torchrun started beside it, in training and in inference: its number, its device, how they meet.

- `RankContext` is the part that both share; `components.engine.task.EpochContext` and `Ranks` add what training and inference need.
- In inference without `zero_inference` ranks share nothing: each holds the whole model and takes whole batches, and no step is waited for.
- With it each rank holds a part of the language model's weights (ZeRO-3) and gathers a layer as it is run. So all ranks must run the
  language model equally often: `most` and `any` say how far the others go, and a rank without work of its own repeats some.
- Everything but the language model's layers stays whole on every rank: how often a vision tower or projector runs depends on a batch's media.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from components.config.settings import Settings
from components.config.training import TrainingSettings

LOCKSTEP_SECONDS = 1800  # how long a rank of inference waits for another: a batch at most
_CONFIGURATIONS: dict[torch.dtype, Any] = {}


@dataclass(frozen=True)
class RankContext:
    """One rank among `world`."""

    rank: int = 0
    world: int = 1

    @property
    def device(self) -> torch.device:
        """This rank's GPU, or the CPU."""
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, in the order of ranks, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values


def set_up_ranks(*, deepspeed: bool, seconds: float) -> RankContext:
    """Set up torch.distributed among the processes that torchrun started: gloo on CPUs, NCCL on GPUs. A collective waits for `seconds`.

    With `deepspeed` its own view of the ranks is set up too, ahead of any checkpoint: ZeRO-3 would take the first one that is opened for
    that of a lone process.
    """
    context = RankContext(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    backend = "gloo" if context.device.type == "cpu" else "nccl"
    if context.device.type == "cuda":
        torch.cuda.set_device(context.device)
    if deepspeed:
        if context.device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported
        import deepspeed as library

        library.init_distributed(dist_backend=backend, timeout=timedelta(seconds=seconds), verbose=False)
    else:
        distributed.init_process_group(backend, timeout=timedelta(seconds=seconds))
    return context


@dataclass(frozen=True)
class Ranks(RankContext):
    """One rank of inference; those in `lockstep` hold one model together."""

    lockstep: bool = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, all ranks are one process group, also those that then work apart: they fill the cache of features together."""
        if self.lockstep or self.world == 1:
            yield
            return
        set_up_ranks(deepspeed=False, seconds=LOCKSTEP_SECONDS)
        yield
        distributed.destroy_process_group()

    def join(self) -> None:
        """Meet the other ranks, where they keep in step."""
        if self.lockstep:
            set_up_ranks(deepspeed=True, seconds=LOCKSTEP_SECONDS)

    def leave(self) -> None:
        """Wait for the others and part, where they keep in step."""
        if self.lockstep:
            distributed.barrier()
            distributed.destroy_process_group()

    def most(self, count: int) -> int:
        """The largest `count` of all ranks that keep in step."""
        if not self.lockstep:
            return count
        largest = torch.tensor(count, device=self.device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def any(self, wanted: bool) -> bool:
        """Whether one of the ranks that keep in step wants to go on."""
        return bool(self.most(int(wanted)))

    @contextmanager
    def opening(self, dtype: torch.dtype) -> Iterator[None]:
        """Models opened inside in `dtype` are partitioned as they are read, where ranks keep in step."""
        if not self.lockstep:
            yield
            return
        from transformers.integrations import HfDeepSpeedConfig

        # Stays alive: transformers' and our own generation ask whether it lives, and then take equally many steps on all ranks.
        _CONFIGURATIONS[dtype] = HfDeepSpeedConfig(_zero_settings(dtype))
        yield

    def move(self, model: Any) -> Any:
        """Put an opened vision-language model onto this rank's device, ready to run."""
        if not self.lockstep:
            return model.to(self.device)
        import deepspeed

        layers = model.model.language_model.layers
        _make_whole(model, but={id(parameter) for parameter in layers.parameters()})
        engine, *_ = deepspeed.initialize(model=layers, config=_zero_settings(model.dtype))
        vars(model)["zero_engine"] = engine  # lives as long as the model, whose layers it gathers; not a module of it
        return model


def _make_whole(model: torch.nn.Module, *, but: set[int]) -> None:
    """Gather all parameters except those with the ids `but`, and make ordinary ones of them, which nothing takes apart again."""
    from deepspeed import zero

    places = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if id(parameter) not in but and "ds_id" in vars(parameter)
    ]
    whole: dict[int, torch.nn.Parameter] = {}
    for module, name, parameter in places:
        if id(parameter) not in whole:  # a tied weight has two places
            with zero.GatheredParameters([parameter]):
                whole[id(parameter)] = torch.nn.Parameter(parameter.data.clone(), requires_grad=False)
        module.register_parameter(name, whole[id(parameter)])


def ranks_of_process(settings: Settings, stage: str) -> Ranks:
    """This process among those that torchrun started for `stage`; without torchrun the only one."""
    section = inference_section(settings, stage)
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")), section.zero_inference)


def inference_section(settings: Settings, stage: str) -> Any:
    """The section that says over how many processes a stage is spread."""
    if stage == "critique":
        return settings.critique
    return settings.reference if stage == "reference" else settings.evaluate


def inference_dtype(settings: Settings) -> torch.dtype:
    """The dtype in which frozen models run: that of training. Of log-probs that training compares with its own, see `policy_autocast`."""
    return torch.bfloat16 if settings.training.precision == "bf16" else torch.float32


def policy_autocast(training: TrainingSettings) -> torch.dtype | None:
    """What a policy's forward pass autocasts to in training, over fp32 weights; None where it computes in its weights' dtype.

    Its reference is computed alike: with bf16 weights in place of fp32 ones, log-probs would differ by tenths of a nat before the first step.
    """
    return torch.bfloat16 if training.engine == "ddp" and training.precision == "bf16" else None


def _zero_settings(dtype: torch.dtype) -> dict[str, Any]:
    """ZeRO-3 that gathers a layer when it is run and not ahead: what is fetched ahead would differ between ranks."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": {
            "stage": 3,
            "stage3_prefetch_bucket_size": 0,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
        },
        "steps_per_print": 1_000_000_000,
    }
