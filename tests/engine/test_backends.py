"""DeepSpeed's settings, and DDP's arithmetic on one rank in this process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers.trainer_pt_utils import get_parameter_names

from components.checkout import Checkout
from components.config.training import TrainingSettings
from components.engine.backends import COLLECTIVE_SECONDS, OPTIMIZER, WEIGHTS, Backend, Ddp, deepspeed_config, zero_config
from components.engine.checkpoint_files import CheckpointFiles
from components.engine.groups import decayed_names
from components.engine.loss_module import LossModule, in_fp32
from components.engine.ranks import RankContext
from components.errors import UserError
from components.families.loading import load_model
from components.files import read_json, write_json
from tests.engine.conftest import CHECKOUT, prepare
from tests.engine.single import settings_of, single_rank
from tests.engine.toy import ToyTask


class OnGpu(RankContext):
    """A rank with a GPU, whatever this machine has."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 1)


def config(context: RankContext | None = None, **training: Any) -> dict[str, Any]:
    settings = settings_of(**{"engine": "deepspeed", "zero_stage": 3} | training)
    return deepspeed_config(Checkout(CHECKOUT), settings.training, context or RankContext(0, 2))


def test_config_has_no_auto_value_and_one_item_a_rank() -> None:
    settings = config(max_grad_norm=0.7)
    assert "auto" not in str(settings)
    assert (settings["train_batch_size"], settings["train_micro_batch_size_per_gpu"], settings["gradient_accumulation_steps"]) == (2, 1, 1)
    assert settings["gradient_clipping"] == 0.7
    assert config(RankContext(0, 8))["train_batch_size"] == 8


def test_config_follows_precision() -> None:
    assert config(precision="bf16")["bf16"] == {"enabled": True}
    assert config(precision="fp32")["bf16"] == {"enabled": False}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_config_holds_the_settings_of_its_zero_file(stage: int) -> None:
    expected = read_json(CHECKOUT / f"infra/deepspeed/zero{stage}.json")["zero_optimization"]
    assert config(OnGpu(0, 2), zero_stage=stage)["zero_optimization"] == expected


def test_offloading_moves_state_on_a_gpu_and_nothing_on_a_cpu() -> None:
    to_cpu = {"device": "cpu", "pin_memory": True}
    optimizer = config(OnGpu(0, 2), offload="optimizer")
    assert optimizer["zero_optimization"]["offload_optimizer"] == to_cpu
    assert "offload_param" not in optimizer["zero_optimization"]
    assert optimizer["zero_force_ds_cpu_optimizer"] is False
    everything = config(OnGpu(0, 2), offload="all")["zero_optimization"]
    assert (everything["offload_optimizer"], everything["offload_param"]) == (to_cpu, to_cpu)
    assert not any("offload" in name for name in config(OnGpu(0, 2), offload="none")["zero_optimization"])
    assert config(offload="all") == config(offload="none")


def test_missing_zero_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"zero2\.json is missing: training\.zero_stage 2 needs it"):
        zero_config(Checkout(tmp_path), 2)


def test_zero_file_of_another_stage_is_refused(tmp_path: Path) -> None:
    shutil.copytree(CHECKOUT / "infra/deepspeed", tmp_path / "infra/deepspeed")
    write_json(tmp_path / "infra/deepspeed/zero2.json", read_json(tmp_path / "infra/deepspeed/zero3.json"))
    with pytest.raises(UserError, match=r"must hold zero_optimization\.stage 2"):
        zero_config(Checkout(tmp_path), 2)


def test_a_collective_waits_for_hours() -> None:
    assert COLLECTIVE_SECONDS == 21600


def test_ddp_step_clips_scales_the_rate_and_clears_gradients() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
    with single_rank(max_grad_norm=1.0) as backend:
        backend.prepare(layer, [{"params": list(layer.parameters()), "lr": 0.1, "weight_decay": 0.5}])
        backend.backward(layer(torch.tensor([[3.0, 4.0]])).sum())
        seen: list[Tensor] = []
        step = backend.optimizer.step
        backend.optimizer.step = lambda: (seen.append(layer.weight.grad.clone()), step())
        assert backend.step(0.5) == pytest.approx(5.0)  # the norm before clipping
        assert torch.allclose(seen[0], torch.tensor([[0.6, 0.8]]))
        # AdamW's first step: decay by rate times 0.5, then the gradient's sign times the rate.
        assert torch.allclose(layer.weight, torch.tensor([[1.0, 2.0]]) * (1 - 0.05 * 0.5) - 0.05, atol=1e-6)
        assert layer.weight.grad is None
        assert backend.rates == [0.1]


def test_ddp_accumulates_over_micro_batches() -> None:
    layer = nn.Linear(1, 1, bias=False)
    with single_rank() as backend:
        backend.prepare(layer, [{"params": list(layer.parameters()), "lr": 0.1, "weight_decay": 0.0}])
        for value, last in ((2.0, False), (3.0, True)):
            with backend.accumulating(last=last):
                backend.backward(layer(torch.tensor([[value]])).sum())
        assert layer.weight.grad is not None
        assert float(layer.weight.grad) == 5.0


def test_ddp_checkpoint_restores_weights_and_moments(tmp_path: Path) -> None:
    def layer() -> nn.Linear:
        torch.manual_seed(3)
        return nn.Linear(3, 2)

    def steps(backend: Any, count: int) -> None:
        for _ in range(count):
            backend.backward(backend.wrapped(torch.ones(1, 3)).square().sum())
            backend.step(0.5)

    def groups(module: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(module.parameters()), "lr": 0.1, "weight_decay": 0.1}]

    whole, resumed = layer(), layer()
    with single_rank() as backend:
        backend.prepare(whole, groups(whole))
        steps(backend, 2)
        files = CheckpointFiles()
        (tmp_path / "checkpoint-2").mkdir()
        files.begin(tmp_path / "checkpoint-2")
        backend.save(tmp_path / "checkpoint-2", files)
        assert sorted(files.take()) == [WEIGHTS, OPTIMIZER]
        steps(backend, 2)
    assert sorted(path.name for path in (tmp_path / "checkpoint-2").iterdir()) == [WEIGHTS, OPTIMIZER]
    with single_rank() as backend:
        backend.prepare(resumed, groups(resumed))
        backend.load(tmp_path / "checkpoint-2")
        steps(backend, 2)
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)


class OnGpuUnwrapped(Ddp):
    """The optimizer of a rank with a GPU, over parameters that stay where they are."""

    def __init__(self, training: TrainingSettings) -> None:
        Backend.__init__(self, training, OnGpu(0, 2))

    def _wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        self.optimizer = optimizer


@pytest.mark.parametrize("offload", ["none", "optimizer"])
def test_optimizer_on_a_gpu_is_fused(offload: str) -> None:
    layer = nn.Linear(1, 1)
    backend = OnGpuUnwrapped(settings_of(engine="deepspeed", offload=offload).training)
    backend.prepare(layer, [{"params": list(layer.parameters()), "lr": 0.1, "weight_decay": 0.0}])
    assert backend.optimizer.defaults["fused"] is True


def test_gradients_go_out_beside_backward_on_a_gpu_alone() -> None:
    for stage in (1, 2, 3):
        assert config(OnGpu(0, 2), zero_stage=stage)["zero_optimization"]["overlap_comm"] is True
        assert config(zero_stage=stage)["zero_optimization"]["overlap_comm"] is False


def test_optimizer_on_a_cpu_is_not_fused() -> None:
    layer = nn.Linear(1, 1)
    with single_rank() as backend:
        backend.prepare(layer, [{"params": list(layer.parameters()), "lr": 0.1, "weight_decay": 0.0}])
        assert backend.optimizer.defaults["fused"] is None
        assert (backend.optimizer.defaults["betas"], backend.optimizer.defaults["eps"]) == ((0.9, 0.999), 1e-8)


def test_decayed_weights_are_those_of_transformers_trainer(tiny_base: Path) -> None:
    class Scored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = load_model(tiny_base)
            self.norm = nn.LayerNorm(3)
            self.scale = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3))
            self.q_norm = nn.Linear(2, 2, bias=False)
            self.abnormal = nn.Linear(2, 2)

    model = Scored()
    patterns = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    names = decayed_names(model)
    assert names == set(get_parameter_names(model, [nn.LayerNorm], patterns))
    assert {"scale.1.weight", "abnormal.weight"} <= names
    assert not {"norm.weight", "scale.0.weight", "q_norm.weight", "abnormal.bias"} & names


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def test_half_precision_outputs_become_fp32_whatever_holds_them() -> None:
    half, whole, count = torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.long)
    converted = in_fp32({"pair": Pair(half, whole), "list": [half, count], "tuple": (half.half(),), "text": "half"})
    assert isinstance(converted["pair"], Pair)
    assert [value.dtype for value in converted["pair"]] == [torch.float32, torch.float64]
    assert [value.dtype for value in converted["list"]] == [torch.float32, torch.long]
    assert (converted["tuple"][0].dtype, converted["text"]) == (torch.float32, "half")


def test_bf16_forward_of_ddp_computes_in_bf16_and_gives_fp32(tmp_path: Path) -> None:
    task = ToyTask(settings_of(), prepare(tmp_path))
    batch = task.batch([0, 1])
    expected = task.model(**batch)["prediction"].detach()
    prediction = LossModule(task, torch.bfloat16)(batch, outputs_alone=True)["prediction"].detach()
    assert prediction.dtype == torch.float32
    assert torch.equal(prediction, prediction.bfloat16().float())
    assert 0 < float((prediction - expected).abs().max()) < 0.02
    assert torch.equal(LossModule(task)(batch, outputs_alone=True)["prediction"], expected)
    loss, metrics = LossModule(task, torch.bfloat16)(batch)
    assert (loss.dtype, loss.requires_grad) == (torch.float32, True)
    assert not metrics["squared_error"].requires_grad


def test_single_process_gathers_its_own_value_without_waiting() -> None:
    context = RankContext()
    context.barrier()
    assert context.gather({"a": 1}) == [{"a": 1}]
    assert (context.rank, context.world) == (0, 1)


def test_ranks_are_read_from_torchruns_environment() -> None:
    with single_rank(precision="bf16") as backend:
        assert (backend.context.rank, backend.context.world) == (0, 1)
        assert torch.distributed.get_backend() == ("nccl" if torch.cuda.is_available() else "gloo")
        assert backend.autocast == torch.bfloat16
    with single_rank() as backend:
        assert backend.autocast is None
