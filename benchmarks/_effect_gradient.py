"""How near an arm's gradient on noisy rankings comes to that of clean ones, at the base model, without training.

At the base every log-ratio is 0, so that a pair's beta is its weight in the step's gradient. The gradient's cosine with that of the clean
rankings at a constant beta says what the betas do against noise; `shuffled` has the same betas at other pairs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._effect_arms import is_reversed
from components.alignment.betas import controlled, drs_beta
from components.alignment.losses import LossSettings, PairBatch, pair_loss
from components.alignment.task import AlignmentTask, Micro
from components.checkout import Checkout
from components.config.settings import load_settings
from components.trees.logprobs import branch_tokens

STEPS = 12
WEIGHTS, SCALES, DIVISORS = (0.5, 1.0, 2.0, 4.0, 8.0), (0.5, 1.0, 2.0, 4.0), ("standardized", "raw")
Betas = np.ndarray[Any, np.dtype[np.float64]]


def grid(root: Path, steps: int = STEPS) -> dict[str, dict[str, float]]:
    """Mean cosine over `steps` steps by setting: `cosine`, and `shuffled` of the same betas at other pairs. `root` is the noisy checkout."""
    settings = load_settings(root / "params.yaml")
    checkout = Checkout(root)
    task = AlignmentTask(settings, checkout)
    named = dict(_betas(task))
    cosines: dict[str, list[float]] = {name: [] for name in named}
    for number, step in enumerate(task.epoch_plan(0)[:steps]):
        micros = [micro for rank in step.micros for micro in rank]
        whole = replace(micros[0], queries=tuple(sorted(index for micro in micros for index in micro.queries)))
        for name, value in _cosines(task, whole, named).items():
            cosines[name].append(value)
        print(f"gradient: step {number + 1} of {min(steps, len(task.epoch_plan(0)))}", file=sys.stderr, flush=True)
    means = {name: float(np.mean(values)) for name, values in cosines.items()}
    plain = [name for name in means if not name.endswith(" shuffled")]
    return {name: {"cosine": means[name], "shuffled": means.get(f"{name} shuffled", means[name])} for name in plain}


def _betas(task: AlignmentTask) -> Iterator[tuple[str, Betas]]:
    """(name, betas of all pairs) by setting."""
    alignment = task.settings.alignment
    beta, margins = alignment.beta, np.asarray(task.pairs.margin)
    yield "constant", np.full(len(margins), beta)
    mixed = controlled(margins, alignment.model_copy(update={"margin_control": "shuffled"}))
    for divisor, weight, scale in product(DIVISORS, WEIGHTS, SCALES):
        factor = task.pairs.scale.divisor if divisor == "raw" else 1.0
        name = f"{divisor}, w {weight:g}, k {scale:g}"
        for values, suffix in ((margins, ""), (mixed, " shuffled")):
            yield name + suffix, drs_beta(np.nan_to_num(values * factor), beta, weight, scale)


def _cosines(task: AlignmentTask, micro: Micro, named: dict[str, Betas]) -> dict[str, float]:
    batch = task.batch(micro)
    prepared = batch["batch"]
    log_prob_K = task.model(prepared)
    pairs: PairBatch = prepared.pairs
    rows = [row for index in micro.queries for row in task.pairs.rows(index)]
    wrong = torch.tensor([is_reversed(task.queries[int(task.pairs.query[row])].id) for row in rows])
    right = replace(
        pairs,
        winner_P=torch.where(wrong, pairs.loser_P, pairs.winner_P),
        loser_P=torch.where(wrong, pairs.winner_P, pairs.loser_P),
        beta_P=torch.ones_like(pairs.beta_P),
    )
    parameters = [parameter for parameter in task.model.parameters() if parameter.requires_grad]

    def gradient(chosen: PairBatch) -> Tensor:
        loss = pair_loss(log_prob_K, prepared.reference_K, branch_tokens(prepared), chosen, LossSettings(sft_weight=0.0)).loss
        parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return torch.cat([part.flatten() for part in parts if part is not None])

    clean = gradient(right)
    by_name: dict[str, float] = {}
    for name, betas in named.items():
        noisy = gradient(replace(pairs, beta_P=torch.tensor(betas[rows], dtype=torch.float32)))
        by_name[name] = float(torch.nn.functional.cosine_similarity(clean, noisy, dim=0))
    return by_name
