"""The two engines behind the loop: DeepSpeed ZeRO-1/2/3, and torch's DDP.

- Both average gradients over ranks. The loop multiplies the loss by the number of ranks, so the optimizer steps on the sum.
- DeepSpeed holds a bf16 model with fp32 master weights beside it. DDP holds fp32 weights; under bf16 the forward pass autocasts.
- DeepSpeed clips and steps in one call, so `step` does both here too, and returns the norm before clipping.
- The learning rate of a step is its group's rate times the schedule's factor, which follows from the step's number: no state is saved of it.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from components.checkout import Checkout
from components.engine import partitions
from components.engine.ranks import RankContext, policy_autocast, set_up_ranks
from components.errors import UserError
from components.files import read_json

if TYPE_CHECKING:
    from components.config.training import TrainingSettings
    from components.engine.checkpoint_files import CheckpointFiles

COLLECTIVE_SECONDS = 6 * 3600  # how long a rank waits for another: text written ahead of an epoch takes hours on large data
WEIGHTS, OPTIMIZER = "model.pt", "optimizer.pt"  # DDP's files in a checkpoint

Groups = list[dict[str, Any]]


class Backend(ABC):
    """Wraps a module and its optimizer. Build it once in a rank, before the task: it sets up torch.distributed."""

    autocast: torch.dtype | None = None  # of the module's forward pass
    wrapped: Any  # what the loop calls in the module's place
    optimizer: Any

    def __init__(self, training: TrainingSettings, context: RankContext) -> None:
        self.training = training
        self.context = context
        self.rates: list[float] = []

    def prepare(self, module: nn.Module, groups: Groups) -> None:
        """Wrap `module` and build AdamW over `groups` (params, lr, weight_decay)."""
        # On a GPU the step is one kernel; where its state lies in CPU memory, a fused step is what keeps up.
        fused = True if self.context.device.type == "cuda" else None
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=fused)
        self._wrap(module, optimizer)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def step(self, factor: float) -> float:
        """Clip, step at `factor` of each group's learning rate, clear the gradients. Returns the gradient's norm before clipping."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        return self._clip_and_step()

    @abstractmethod
    def accumulating(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Around a micro-batch: gradients are exchanged in the step's last one only (ZeRO-2 exchanges in each, and adds up)."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` up."""

    @abstractmethod
    def whole_weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside, every rank holds all weights: see `components.engine.partitions.whole_in_engine`."""

    @abstractmethod
    def save(self, folder: Path, files: CheckpointFiles) -> None:
        """Hand weights and optimizer to `files`, which writes them into `folder`. Every rank calls it."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Every rank calls it."""

    @abstractmethod
    def _wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None: ...

    @abstractmethod
    def _clip_and_step(self) -> float: ...


class Ddp(Backend):
    """torch's DistributedDataParallel; on one rank the bare module."""

    def __init__(self, training: TrainingSettings) -> None:
        super().__init__(training, set_up_ranks(deepspeed=False, seconds=COLLECTIVE_SECONDS))
        self.autocast = policy_autocast(training)

    def _wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.module, self.optimizer = module.to(self.context.device), optimizer
        if self.context.world == 1:
            self.wrapped = module
            return
        devices = [self.context.device] if self.context.device.type == "cuda" else None
        # A step of text alone does not touch the vision tower.
        self.wrapped = DistributedDataParallel(module, device_ids=devices, find_unused_parameters=True)

    def accumulating(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """no_sync ahead of the last micro-batch."""
        return contextlib.nullcontext() if last or self.wrapped is self.module else self.wrapped.no_sync()

    def backward(self, loss: Tensor) -> None:
        """torch's own."""
        loss.backward()  # type: ignore[no-untyped-call]

    def _clip_and_step(self) -> float:
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.training.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def whole_weights(self) -> contextlib.AbstractContextManager[None]:
        """Every rank holds them all the time."""
        return contextlib.nullcontext()

    def save(self, folder: Path, files: CheckpointFiles) -> None:
        """Rank 0 writes for all."""
        if self.context.rank == 0:
            files.write(self.module.state_dict(), folder / WEIGHTS)
            files.write(self.optimizer.state_dict(), folder / OPTIMIZER)

    def load(self, folder: Path) -> None:
        """Every rank reads the same files."""
        weights, optimizer = (torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True) for name in (WEIGHTS, OPTIMIZER))
        self.module.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)


class DeepSpeed(Backend):
    """DeepSpeed's engine, with the settings of infra/deepspeed."""

    def __init__(self, training: TrainingSettings, checkout: Checkout) -> None:
        super().__init__(training, set_up_ranks(deepspeed=True, seconds=COLLECTIVE_SECONDS))
        from transformers.integrations import HfDeepSpeedConfig

        import_muon_uncompiled()
        self.config = deepspeed_config(checkout, training, self.context)
        # While this lives, a checkpoint that is opened under ZeRO-3 is spread over the ranks as it is read.
        self.opened_by = HfDeepSpeedConfig(self.config)

    def _wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        import deepspeed

        if self.training.precision == "bf16":
            for parameter in module.parameters():
                if "ds_id" not in vars(parameter):  # ZeRO-3 takes one dtype, and casts no weight that was not opened from a checkpoint
                    parameter.data = parameter.data.bfloat16()
        self.wrapped, self.optimizer, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=self.config)
        self.wrapped.checkpoint_engine = self.handing = handing_engine()

    def accumulating(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """The engine's boundary."""
        self.wrapped.set_gradient_accumulation_boundary(last)
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """The engine's, without its division by the number of micro-batches: a task's loss is a part of a sum."""
        self.wrapped.backward(loss, scale_wrt_gas=False)

    def _clip_and_step(self) -> float:
        self.wrapped.step()
        return float(self.wrapped.get_global_grad_norm())

    def whole_weights(self) -> contextlib.AbstractContextManager[None]:
        """Gathered under ZeRO-3; ZeRO-1 and 2 hold them all the time."""
        return partitions.whole_in_engine(self.wrapped, self.opened_by)

    def save(self, folder: Path, files: CheckpointFiles) -> None:
        """Each rank writes its part, in DeepSpeed's format."""
        self.handing.files = files
        self.wrapped.save_checkpoint(str(folder))

    def load(self, folder: Path) -> None:
        """Each rank reads its part. Raises ValueError where DeepSpeed recognizes no checkpoint."""
        path, _ = self.wrapped.load_checkpoint(str(folder))
        if path is None:
            raise ValueError(f"DeepSpeed reads no checkpoint from {folder}")


def handing_engine() -> Any:
    """A checkpoint engine of DeepSpeed's that hands what DeepSpeed saves to `files`. Build one where ranks are set up."""
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    class Handing(TorchCheckpointEngine):  # type: ignore[misc]
        """Writes nothing by itself; reads as torch does."""

        files: CheckpointFiles

        def save(self, state_dict: Any, path: str) -> None:
            self.files.write(state_dict, Path(path))

        def preserves_storage_sharing(self) -> bool:
            return False  # `files` copies each tensor by itself

    return Handing()


def set_up_backend(training: TrainingSettings, checkout: Checkout) -> Backend:
    """The backend of `training.engine`; sets up torch.distributed. Raises UserError where DeepSpeed's settings are missing or wrong."""
    return DeepSpeed(training, checkout) if training.engine == "deepspeed" else Ddp(training)


def deepspeed_config(checkout: Checkout, training: TrainingSettings, context: RankContext) -> dict[str, Any]:
    """DeepSpeed's settings for `training`. On a CPU nothing is offloaded: all of it is in its memory.

    One engine step is one optimizer step: the loop runs the micro-batches itself, so DeepSpeed counts one of one item.
    """
    config = zero_config(checkout, training.zero_stage) | {
        "train_batch_size": context.world,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.max_grad_norm,
        "bf16": {"enabled": training.precision == "bf16"},
    }
    on_gpu = context.device.type == "cuda"
    if not on_gpu:
        config["zero_optimization"]["overlap_comm"] = False  # a CPU has no second stream that gradients could go out on
    if training.offload != "none" and on_gpu:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        config["zero_force_ds_cpu_optimizer"] = False  # torch's fused AdamW needs no compiler
    if training.offload == "all" and on_gpu:
        config["zero_optimization"]["offload_param"] = {"device": "cpu", "pin_memory": True}
    return config


def zero_config(checkout: Checkout, stage: int) -> dict[str, Any]:
    """DeepSpeed's settings for a ZeRO stage, from the checkout's infra/deepspeed."""
    path = checkout.deepspeed / f"zero{stage}.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: training.zero_stage {stage} needs it")
    config: dict[str, Any] = read_json(path)
    if config.get("zero_optimization", {}).get("stage") != stage:
        raise UserError(f"{path} must hold zero_optimization.stage {stage}, as its name says")
    return config


def import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon without compiling its kernels: 2.4 s of processor time a rank.

    DeepSpeed asks of every optimizer whether it is Muon. Importing that class passes its kernels, which AdamW never calls, to torch.compile.
    """
    from deepspeed.runtime import compiler

    compile_decorator = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    finally:
        compiler.compile = compile_decorator
