"""The head under ZeRO-3 at a true vocabulary, with two ranks whose numbers of target tokens are far apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from components.operations.services.state import free_port
from components.trees.logprobs import token_scores

VOCABULARY, HIDDEN, STEPS = 152_064, 16, 3
TARGETS = (30, 900)  # of each rank, in every step


class Model(nn.Module):
    """A layer and a head, read as a policy's are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(HIDDEN, HIDDEN)
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, hidden_TH: Tensor, target_T: Tensor) -> Tensor:
        return token_scores(self.lm_head, self.layer(hidden_TH), target_T).log_prob_T


def batches(rank: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(rank)
    count = TARGETS[rank]
    return [
        (torch.randn(count, HIDDEN, generator=generator), torch.randint(VOCABULARY, (count,), generator=generator)) for _ in range(STEPS)
    ]


def seeded() -> Model:
    torch.manual_seed(0)
    return Model()


def rank_of_two(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    model = seeded()
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": zero,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.5), config=config)
    calls: list[int] = []
    engine.module.lm_head.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    losses = []
    for hidden_TH, target_T in batches(rank):
        loss = -engine(hidden_TH, target_T).mean()
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        state = {name: value.detach().clone() for name, value in model.named_parameters()}
    torch.save({"losses": losses, "calls": calls, "state": state}, folder / f"rank-{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def one_process() -> tuple[list[list[float]], dict[str, Tensor]]:
    """The same steps with full logits: the loss is the mean over ranks."""
    model = seeded()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses: list[list[float]] = [[], []]
    for pair in zip(batches(0), batches(1), strict=True):
        optimizer.zero_grad()
        for rank, (hidden_TH, target_T) in enumerate(pair):
            loss = functional.cross_entropy(model.lm_head(model.layer(hidden_TH)), target_T)
            (loss / 2).backward()
            losses[rank].append(loss.item())
        optimizer.step()
    return losses, {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.slow  # test_head_chunks has the same in one process: a partitioned head is called once, whatever the targets
@pytest.mark.timeout(300)
def test_ranks_of_unequal_targets_gather_the_head_equally_often(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(rank_of_two, args=(free_port(set()), tmp_path), nprocs=2)  # type: ignore[attr-defined]
    losses, state = one_process()
    for rank in range(2):
        result = torch.load(tmp_path / f"rank-{rank}.pt")
        assert result["calls"] == [TARGETS[rank]] * STEPS
        assert result["losses"] == pytest.approx(losses[rank], rel=1e-5)
        for name, value in state.items():
            torch.testing.assert_close(result["state"][name], value, rtol=1e-4, atol=1e-5)
