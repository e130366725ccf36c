"""A training of preference trees of random text by the engine that the profiles name, in one process: its own loop, in trial steps."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks._harness import ROOT
from benchmarks._models import Shape, build_model, build_processor, build_task
from components.alignment.losses import LossSettings, PairBatch, pair_loss
from components.checkout import Checkout
from components.config.settings import Settings, parse_settings
from components.engine.backends import set_up_backend
from components.engine.loop import Loop, Trial
from components.engine.task import Step, TrainingTask
from components.families.recomputation import set_recomputation
from components.features.embedding import run_vision_tower
from components.trees.logprobs import BranchScores, TreeModel, branch_tokens
from components.trees.trees import Tree, TreeBatch, build_batch

BETA = 0.1
PROFILE = "llava-ov-7b"  # its section `training`, on one rank


@dataclass(frozen=True)
class Case:
    """A model, the lengths in tokens of its queries, and how many trees a micro-batch has."""

    shape: Shape
    root_tokens: int
    response_tokens: int
    recomputation: str
    trees: int = 2
    longest: int = 131_072 - 1024  # longest root to try
    grain: int = 1024  # precision in tokens of the longest root


def settings_of(case: Case, training: dict[str, Any]) -> Settings:
    """The profile's settings on one rank, with the case's recomputation and these."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    profile = yaml.safe_load((ROOT / f"profiles/{PROFILE}.yaml").read_text(encoding="utf-8"))
    own = {"ranks": 1, "gradient_checkpointing": case.recomputation, "threads": values["training"]["threads"]}
    values["training"] |= profile["training"] | own | training
    values["alignment"] |= {"learning_rate": 1e-6, "warmup_share": 0.0, "max_steps": None}
    return parse_settings(values, "params.yaml")


class TreesTask(TrainingTask):
    """A policy over one query, repeated in every tree, whose vision tower's output is there. A micro-batch is a list of root lengths."""

    epochs = 1

    def __init__(self, case: Case, settings: Settings, responses: int, attention: str, device: str) -> None:
        processor = build_processor(case.shape.side)
        training = settings.training
        weights = torch.bfloat16 if training.precision == "bf16" and training.engine == "deepspeed" else torch.float32
        model = build_model(case.shape, processor, dtype=weights, device=device, attention=attention)
        set_recomputation(model, training.gradient_checkpointing)
        self.model = TreeModel(model)
        self.pad_id: int = processor.tokenizer.pad_token_id
        task = build_task(
            case.shape,
            processor,
            model.config,
            responses=responses,
            root_tokens=case.root_tokens,
            response_tokens=case.response_tokens,
        )
        media = tuple(replace(one, features=run_vision_tower(model, one, weights, training.threads)) for one in task.root.media)
        self.tree = replace(task.tree, root=replace(task.root, media=media))
        self.pairs = task.pairs
        self.device = device

    def epoch_plan(self, epoch: int) -> list[Step]:  # noqa: ARG002
        """One step, which `Loop` counts; trials bring their own."""
        return [Step([[[len(self.tree.root.input_ids)]]])]

    def begin_epoch(self, epoch: int, context: Any) -> None:
        """Nothing is prepared."""

    def batch(self, micro: list[int]) -> dict[str, Any]:
        """A row for each root, with the tree's responses."""
        trees = [self.longer(tokens) for tokens in micro]
        return {"batch": build_batch(trees, max(tree.tokens for tree in trees), self.device, self.pad_id), "statistics": True}

    def loss(self, outputs: Tensor | BranchScores, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """MM-DPO's loss of all pairs, against reference log-probs of 0."""
        log_prob_K = outputs.log_prob_K if isinstance(outputs, BranchScores) else outputs
        prepared: TreeBatch = batch["batch"]
        each = len(self.tree.branches)
        pairs = [(start + winner, start + loser) for start in range(0, len(log_prob_K), each) for winner, loser in self.pairs]
        winners, losers = (torch.tensor(column, device=log_prob_K.device) for column in zip(*pairs, strict=True))
        even = torch.full((len(pairs),), 1 / len(pairs), device=log_prob_K.device)
        made = PairBatch(winners, losers, torch.full_like(even, BETA), even)
        result = pair_loss(log_prob_K, torch.zeros_like(log_prob_K), branch_tokens(prepared), made, LossSettings(sft_weight=0.0))
        return result.loss, result.metrics

    def export(self, folder: Path) -> None:
        """A trial exports nothing."""

    def longer(self, root_tokens: int) -> Tree:
        """The tree with the root's last token repeated up to `root_tokens`."""
        ids = self.tree.root.input_ids
        root = replace(self.tree.root, input_ids=(*ids, *[ids[-1]] * (root_tokens - len(ids))))
        return replace(self.tree, root=root)


@contextlib.contextmanager
def engine(
    case: Case, responses: int, attention: str, device: str, **training: Any
) -> Iterator[tuple[Loop, TreesTask, Callable[..., Trial]]]:
    """A loop, its task, and trial steps of `micros` micro-batches: `steps(count, root_tokens=None, micros=1)`."""
    settings = settings_of(case, training)
    with tempfile.TemporaryDirectory() as folder, _lone_rank():
        # Before the engine: under ZeRO-3 transformers would build only a part of the model partitioned.
        task = TreesTask(case, settings, responses, attention, device)
        backend = set_up_backend(settings.training, Checkout(ROOT))
        loop = Loop(task, backend, settings.training, settings.alignment, Path(folder))

        def steps(count: int, root_tokens: int | None = None, micros: int = 1) -> Trial:
            micro = [root_tokens or case.root_tokens] * (1 if root_tokens else case.trees)
            return loop.trial(Step([[micro] * micros]) for _ in range(count))

        try:
            yield loop, task, steps
        finally:
            torch.distributed.destroy_process_group()
            vars(backend).pop("opened_by", None)  # while it lives, transformers takes every model for one of ZeRO-3's


@contextlib.contextmanager
def _lone_rank() -> Iterator[None]:
    """What torchrun would name for one process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
