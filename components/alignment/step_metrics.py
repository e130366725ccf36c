"""Betas and weights of an optimiser step, for its curves: known from the plan, so that a least and a greatest value are exact.

The engine adds metrics up over ranks and micro-batches, which a minimum does not survive. So one micro-batch of the step, the first of rank
0, reports the step's metrics and all others report zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.alignment.betas import at_cap, varies
from components.alignment.pairs import PairTable

if TYPE_CHECKING:
    from components.config.alignment import AlignmentSettings

Metrics = dict[str, float]


def step_metrics(pairs: PairTable, rows: Sequence[int], settings: AlignmentSettings) -> Metrics:
    """Metrics of a step over the pairs in `rows`; the same names in every step. None of beta where it is known in the step only."""
    metrics: Metrics = {}
    if settings.beta_schedule != "beta_dpo":
        betas = pairs.beta[list(rows)]
        metrics |= {"beta/min": float(betas.min()), "beta/mean": float(betas.mean()), "beta/max": float(betas.max())}
        if varies(settings):
            metrics["beta/share_at_cap"] = at_cap(betas, settings)
    if settings.beta_schedule == "madpo":
        weights = pairs.weight[list(rows)]
        metrics |= {"weight/min": float(weights.min()), "weight/mean": float(weights.mean()), "weight/max": float(weights.max())}
    return metrics


def as_metrics(metrics: Metrics, leads: bool, device: torch.device) -> dict[str, Tensor]:
    """The metrics as parts of sums, in fp64 so that a single one comes out as it went in: themselves where `leads`, else zeros."""
    values = torch.tensor([value if leads else 0.0 for value in metrics.values()], dtype=torch.float64, device=device)
    return dict(zip(metrics, values.unbind(), strict=True))
