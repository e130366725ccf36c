"""The table of training pairs: every rank-different pair with its margin, its beta and the weight of its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.alignment.betas import Array, MarginScale, controlled, margin_scale, pair_betas, pair_weights, uses_margins
from components.checkout import IN_CHECKOUT
from components.errors import UserError
from components.preferences.record import Query
from components.reward.calibration import is_calibration

if TYPE_CHECKING:
    from components.config.alignment import AlignmentSettings

Scores = dict[tuple[str, int], float]


@dataclass(frozen=True)
class PairTable:
    """Pairs of all queries, flat: the query's index, response indices, scaled margin (NaN where there is none), beta and weight.

    Beta is the one known before training: under `beta_dpo`, whose beta is a step's, it is beta0. The weight is 1 but for `madpo`.
    """

    query: np.ndarray[tuple[int], np.dtype[np.int64]]
    winner: np.ndarray[tuple[int], np.dtype[np.int64]]
    loser: np.ndarray[tuple[int], np.dtype[np.int64]]
    margin: Array
    beta: Array
    weight: Array
    scale: MarginScale
    calibration: np.ndarray[tuple[int], np.dtype[np.bool_]]

    def rows(self, query: int) -> range:
        """Row numbers of a query's pairs. Rows have the queries' order."""
        return range(*np.searchsorted(self.query, [query, query + 1]).tolist())


def read_scores(path: Path) -> Scores:
    """Scores by (query id, response index) from a critique stage's table."""
    table = pq.read_table(path, columns=["id", "response", "score"])
    return {
        (identity, response): score
        for identity, response, score in zip(*(table[name].to_pylist() for name in ("id", "response", "score")), strict=True)
        if score is not None
    }


def build_pairs(queries: Sequence[Query], scores: Scores, settings: AlignmentSettings, calibration_share: float) -> PairTable:
    """Every rank-different pair of `queries` with margin, beta and weight, in the queries' order. Ties make no pairs.

    Raises UserError when there is no pair, when margins are missing and `alignment.missing_margin` is "error", or when all are missing
    though training depends on them.
    """
    ids: list[str] = []
    rows: list[tuple[int, int, int]] = []
    for index, query in enumerate(queries):
        ids.append(query.id)
        rows += [(index, winner, loser) for winner, loser in query.pairs()]
    if not rows:
        raise UserError(
            "no training query has two responses of different rank, so there is nothing to align on: "
            "check final_ranking in data/preferences/data.jsonl"
        )
    raw = np.array([_raw_margin(scores, ids[index], winner, loser) for index, winner, loser in rows])
    if np.isnan(raw).any():
        first = rows[int(np.isnan(raw).argmax())]
        if settings.missing_margin == "error":
            raise UserError(
                f"query '{ids[first[0]]}' has a response without a score in {IN_CHECKOUT.critiques('train')}: "
                "rerun the critique stage, or set alignment.missing_margin"
            )
        if np.isnan(raw).all() and (settings.missing_margin == "drop" or uses_margins(settings)):
            raise UserError(
                f"no training pair has a score for both of its responses in {IN_CHECKOUT.critiques('train')}: rerun the critique stage"
            )
        if settings.missing_margin == "drop":
            rows = [row for row, margin in zip(rows, raw, strict=True) if not np.isnan(margin)]
            raw = raw[~np.isnan(raw)]
    of_query, winner, loser = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    calibration = np.array([is_calibration(ids[index], calibration_share) for index in of_query.tolist()])
    scale = margin_scale(settings, raw, raw[calibration & ~np.isnan(raw)])
    margin = controlled(raw / scale.divisor, settings)
    return PairTable(of_query, winner, loser, margin, pair_betas(margin, settings), pair_weights(margin, settings), scale, calibration)


def _raw_margin(scores: Scores, identity: str, winner: int, loser: int) -> float:
    high, low = scores.get((identity, winner)), scores.get((identity, loser))
    return float("nan") if high is None or low is None else high - low


def pair_ids(pairs: PairTable, queries: Sequence[Query]) -> list[str]:
    """The id of each pair's query."""
    ids = [query.id for query in queries]
    return [ids[index] for index in pairs.query.tolist()]


def write_pairs(path: Path, queries: Sequence[Query], pairs: PairTable, policy: Scores, reference: Scores) -> None:
    """Write `pairs.parquet`: what anybody needs to compute the losses again. `policy` and `reference` are log-prob sums; where `policy` has
    none of a pair, the columns hold nulls.

    Under the schedule `beta_dpo` the betas of the steps stand in the training curves.
    """
    ids = pair_ids(pairs, queries)
    winners, losers = list(zip(ids, pairs.winner.tolist(), strict=True)), list(zip(ids, pairs.loser.tolist(), strict=True))
    table = pa.table(
        {
            "id": ids,
            "winner": pa.array(pairs.winner, pa.int32()),
            "loser": pa.array(pairs.loser, pa.int32()),
            "margin": pa.array([None if np.isnan(value) else value for value in pairs.margin.tolist()], pa.float64()),
            "beta": pa.array(pairs.beta, pa.float64()),
            "weight": pa.array(pairs.weight, pa.float64()),
            "policy_winner": pa.array([policy.get(key) for key in winners], pa.float64()),
            "policy_loser": pa.array([policy.get(key) for key in losers], pa.float64()),
            "reference_winner": [reference[key] for key in winners],
            "reference_loser": [reference[key] for key in losers],
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
