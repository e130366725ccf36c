"""The generator of `benchmarks.coverage`: held-out rows in clusters, and the events of models on them.

Exchange it with `--generator FILE`. The file is Python and has one function:

    draw(cell, random, simulations) -> Drawn

`cell` is a `benchmarks.coverage.Cell`: rows, groups (how many of each way to share), sizes (equal or unequal), rates (the true rate of each
model), correlation (in the groups), shared (how much models have in common), pairs (the most cases of a row). `random` is a NumPy generator.
`Drawn` has `clusters` (a name to the group of each row, [N]), `cases` [N] and `events` [models, simulations, N]. The expected events of model m
must be rates[m] times the cases in each row.

Here a row's event happens where a normal latent value lies below the rate's quantile. The latent value is a sum of effects of the row's
groups, of the row, and of the case; models share a part of it. So the rate is exact whatever the clusters are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from benchmarks.coverage import Cell

Floats = NDArray[np.float64]
OF_ROW = 0.3  # of the latent value of a case in a row with several
DECAY = 0.7  # of unequal sizes: the k-th group has a share of k ** -DECAY


class Drawn(NamedTuple):
    """Rows in clusters, their cases, and the models' events."""

    clusters: dict[str, NDArray[np.int64]]
    cases: Floats
    events: Floats


def draw(cell: Cell, random: np.random.Generator, simulations: int) -> Drawn:
    """Draw one set of rows, and `simulations` times the models' events on them."""
    names = [f"way {number}" for number in range(len(cell.groups))]
    clusters = {name: _assign(cell, groups, random) for name, groups in zip(names, cell.groups, strict=True)}
    cases = random.integers(1, cell.pairs + 1, cell.rows).astype(np.float64)
    bounds = ndtri(np.asarray(cell.rates))
    common = _of_rows(cell, clusters, random, simulations)
    events = []
    for bound in bounds:
        latent = np.sqrt(cell.shared) * common + np.sqrt(1 - cell.shared) * _of_rows(cell, clusters, random, simulations)
        if cell.pairs == 1:
            events.append((latent < bound).astype(np.float64))
            continue
        counted = np.zeros_like(latent)
        for number in range(cell.pairs):
            case = np.sqrt(OF_ROW) * latent + np.sqrt(1 - OF_ROW) * random.standard_normal(latent.shape)
            counted += (case < bound) & (number < cases)
        events.append(counted)
    return Drawn(clusters, cases, np.stack(events))


def _assign(cell: Cell, groups: int, random: np.random.Generator) -> NDArray[np.int64]:
    """The group of each row: none is empty."""
    if cell.sizes == "equal":
        return random.permutation(np.arange(cell.rows) % groups)
    shares = np.arange(1, groups + 1) ** -DECAY
    rest = random.choice(groups, cell.rows - groups, p=shares / shares.sum())
    return random.permutation(np.concatenate([np.arange(groups), rest]))


def _of_rows(cell: Cell, clusters: dict[str, NDArray[np.int64]], random: np.random.Generator, simulations: int) -> Floats:
    """Standard normal values [simulations, N] that correlate in groups."""
    values = np.sqrt(1 - cell.correlation) * random.standard_normal((simulations, cell.rows))
    for codes, groups in zip(clusters.values(), cell.groups, strict=True):
        values += np.sqrt(cell.correlation / len(cell.groups)) * random.standard_normal((simulations, groups))[:, codes]
    return np.asarray(values, dtype=np.float64)
