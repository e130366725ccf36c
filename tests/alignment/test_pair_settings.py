"""The pair table for each value of the settings that it reads, the scores that it reads, and the tables of log-probs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from components.alignment.betas import fit_temperature
from components.alignment.pairs import PairTable, build_pairs, read_scores, write_pairs
from components.alignment.reference_table import read_log_probs, write_log_probs
from components.alignment.step_metrics import as_metrics, step_metrics
from components.config.alignment import AlignmentSettings
from components.config.settings import load_settings
from components.critique.stage import write_judgements
from components.errors import UserError
from components.preferences.record import Query, Response
from components.reward.calibration import is_calibration
from tests.conftest import ROOT

# Ranks 1 2 2 and scores 3, 1, 2: pairs (0, 1) and (0, 2) with margins 2 and 1. Then one pair each, the winner second, margins -1 and 4.
QUERIES = [
    Query.single("a", "short", "", (Response("i", 1), Response("j", 2), Response("k", 2))),
    Query.single("b", "short", "", (Response("i", 2), Response("j", 1))),
    Query.single("c", "short", "", (Response("i", 3), Response("j", 1))),
    Query.single("tie", "short", "", (Response("i", 1), Response("j", 1))),
]
SCORES = {("a", 0): 3.0, ("a", 1): 1.0, ("a", 2): 2.0, ("b", 0): 1.0, ("b", 1): 0.0, ("c", 0): -2.0, ("c", 1): 2.0, ("tie", 0): 9.0}
RAW = [2.0, 1.0, -1.0, 4.0]


def settings(**changes: Any) -> AlignmentSettings:
    return load_settings(ROOT / "params.yaml").alignment.model_copy(update=changes)


def without(*keys: tuple[str, int]) -> dict[tuple[str, int], float]:
    return {key: value for key, value in SCORES.items() if key not in keys}


def test_table_lists_the_pairs_in_the_order_of_their_queries() -> None:
    table = build_pairs(QUERIES, SCORES, settings(margins="raw"), 0.0)
    assert (table.query.tolist(), table.winner.tolist(), table.loser.tolist()) == ([0, 0, 1, 2], [0, 0, 1, 1], [1, 2, 0, 0])
    assert table.margin.tolist() == RAW
    assert [list(table.rows(query)) for query in range(4)] == [[0, 1], [2], [3], []]
    assert table.weight.tolist() == [1.0] * 4
    assert not table.calibration.any()


def test_raw_margins_give_the_papers_betas() -> None:
    table = build_pairs(QUERIES, SCORES, settings(margins="raw"), 0.0)
    assert table.beta == pytest.approx([0.1 * (1 + 0.5 * (1 - np.exp(-0.5 * max(0.0, margin)))) for margin in RAW])


def test_reversed_margins_give_surest_pair_the_least() -> None:
    table = build_pairs(QUERIES, SCORES, settings(margins="raw", margin_control="reversed"), 0.0)
    assert table.margin.tolist() == [1.0, 2.0, 4.0, -1.0]  # of 2, 1, -1, 4
    assert table.beta == pytest.approx([0.1 * (1 + 0.5 * (1 - np.exp(-0.5 * max(0.0, margin)))) for margin in (1.0, 2.0, 4.0, -1.0)])


def test_shuffled_margins_are_the_same_values_by_seed() -> None:
    tables = [build_pairs(QUERIES, SCORES, settings(margins="raw", margin_control="shuffled", seed=seed), 0.0) for seed in range(8)]
    assert all(sorted(table.margin.tolist()) == sorted(RAW) for table in tables)
    assert len({tuple(table.margin.tolist()) for table in tables}) > 3
    repeated = build_pairs(QUERIES, SCORES, settings(margins="raw", margin_control="shuffled", seed=3), 0.0)
    assert repeated.margin.tolist() == tables[3].margin.tolist()
    unset = build_pairs(QUERIES, SCORES, settings(margins="raw", margin_control="shuffled", seed=None), 0.0)
    assert unset.margin.tolist() == tables[0].margin.tolist()


@pytest.mark.parametrize("control", ["shuffled", "reversed"])
def test_control_leaves_pairs_without_margin_at_beta0(control: str) -> None:
    table = build_pairs(QUERIES, without(("b", 0)), settings(margins="raw", margin_control=control), 0.0)
    assert np.isnan(table.margin[2])
    assert table.beta[2] == 0.1
    assert sorted(table.margin[[0, 1, 3]].tolist()) == [1.0, 2.0, 4.0]


def test_standardized_margins_are_divided_by_their_deviation() -> None:
    table = build_pairs(QUERIES, SCORES, settings(), 0.0)
    mean = sum(RAW) / 4
    deviation = (sum((margin - mean) ** 2 for margin in RAW) / 4) ** 0.5
    assert table.scale.divisor == pytest.approx(deviation)
    assert table.margin == pytest.approx([margin / deviation for margin in RAW])
    assert table.beta[3] == pytest.approx(0.1 * (1 + 0.5 * (1 - np.exp(-0.5 * 4 / deviation))))


def share_of(*names: str) -> float:
    """A calibration share under which these queries of QUERIES, and no others with pairs, are left out of reward training."""
    for share in np.linspace(0.01, 0.99, 99).tolist():
        if {query.id for query in QUERIES[:3] if is_calibration(query.id, share)} == set(names):
            return float(share)
    raise AssertionError(names)


def test_calibrated_margins_are_scaled_by_the_calibration_part() -> None:
    order = sorted(QUERIES[:3], key=lambda query: next(s for s in np.linspace(0, 1, 101) if is_calibration(query.id, s)))
    chosen = [query.id for query in order[:2]]
    share = share_of(*chosen)
    flags = [query in chosen for query in ("a", "a", "b", "c")]
    temperature = fit_temperature(np.array([margin for margin, flag in zip(RAW, flags, strict=True) if flag]))
    assert temperature is not None
    table = build_pairs(QUERIES, SCORES, settings(margins="calibrated"), share)
    assert table.calibration.tolist() == flags
    assert table.margin == pytest.approx([margin / temperature for margin in RAW])


def test_missing_score_in_the_calibration_part_gives_no_margin() -> None:
    scores = without(("a", 1))
    table = build_pairs(QUERIES, scores, settings(margins="calibrated"), 0.99)
    assert table.calibration.tolist() == [True] * 4
    assert table.scale.divisor == pytest.approx(fit_temperature(np.array([1.0, -1.0, 4.0])))
    assert np.isnan(table.margin).tolist() == [True, False, False, False]


@pytest.mark.parametrize("missing", [("b", 0), ("b", 1)])
def test_missing_margin_beta_trains_the_pair_at_beta0(missing: tuple[str, int]) -> None:
    table = build_pairs(QUERIES, without(missing), settings(margins="raw"), 0.0)
    assert np.isnan(table.margin).tolist() == [False, False, True, False]
    assert table.beta[2] == 0.1
    assert table.margin[[0, 1, 3]].tolist() == [2.0, 1.0, 4.0]


def test_missing_margin_drop_leaves_the_pair_out() -> None:
    table = build_pairs(QUERIES, without(("a", 1)), settings(margins="raw", missing_margin="drop"), 0.0)
    assert (table.query.tolist(), table.winner.tolist(), table.loser.tolist()) == ([0, 1, 2], [0, 1, 1], [2, 0, 0])
    assert table.margin.tolist() == [1.0, -1.0, 4.0]
    assert [list(table.rows(query)) for query in range(4)] == [[0], [1], [2], []]


def test_missing_margin_error_names_first_query_without_a_score() -> None:
    with pytest.raises(UserError, match="query 'b'"):
        build_pairs(QUERIES, without(("b", 0), ("c", 0)), settings(missing_margin="error"), 0.0)
    assert len(build_pairs(QUERIES, SCORES, settings(missing_margin="error"), 0.0).beta) == 4


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"missing_margin": "drop", "beta_schedule": "constant"}, True),
        ({"missing_margin": "beta", "beta_schedule": "constant"}, False),
        ({"missing_margin": "beta", "beta_schedule": "beta_dpo"}, False),
        ({"missing_margin": "beta", "beta_schedule": "drs"}, True),
        ({"missing_margin": "beta", "beta_schedule": "drs", "beta_weight": 0.0}, False),
    ],
)
def test_scores_of_no_pair_are_refused_where_training_needs_them(changes: dict[str, Any], refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match="no training pair has a score"):
            build_pairs(QUERIES, {}, settings(**changes), 0.0)
    else:
        assert build_pairs(QUERIES, {}, settings(**changes), 0.0).beta.tolist() == [0.1] * 4


def test_queries_that_tie_throughout_are_refused() -> None:
    with pytest.raises(UserError, match="nothing to align on"):
        build_pairs(QUERIES[3:], SCORES, settings(), 0.0)


def test_scores_are_read_by_query_and_response_without_nulls(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write_judgements(path, QUERIES[:2], [[("", 3.0), ("x", None), ("", 2.0)], [("", 1.0), ("", 0.0)]])  # type: ignore[list-item]
    assert read_scores(path) == {("a", 0): 3.0, ("a", 2): 2.0, ("b", 0): 1.0, ("b", 1): 0.0}


def test_pair_table_is_written_with_its_types(tmp_path: Path) -> None:
    table = build_pairs(QUERIES, without(("b", 0)), settings(margins="raw"), 0.0)
    policy = {(query.id, number): -float(number) - 1 for query in QUERIES for number in range(3)}
    path = tmp_path / "new/pairs.parquet"
    write_pairs(path, QUERIES, table, policy, {key: value - 0.5 for key, value in policy.items()})
    written = pq.read_table(path)
    assert written.schema.field("winner").type == written.schema.field("loser").type == pa.int32()
    assert written.schema.field("margin").type == pa.float64()
    assert written.to_pydict() == {
        "id": ["a", "a", "b", "c"],
        "winner": [0, 0, 1, 1],
        "loser": [1, 2, 0, 0],
        "margin": [2.0, 1.0, None, 4.0],
        "beta": table.beta.tolist(),
        "weight": [1.0] * 4,
        "policy_winner": [-1.0, -1.0, -2.0, -2.0],
        "policy_loser": [-2.0, -3.0, -1.0, -1.0],
        "reference_winner": [-1.5, -1.5, -2.5, -2.5],
        "reference_loser": [-2.5, -3.5, -1.5, -1.5],
    }


def test_log_probs_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new/train.parquet"
    write_log_probs(path, QUERIES[:2], [[(-1.25, 3), (-2.0, 4), (-3.5, 5)], [(-0.5, 1), (0.0, 2)]])
    assert read_log_probs(path) == {("a", 0): (-1.25, 3), ("a", 1): (-2.0, 4), ("a", 2): (-3.5, 5), ("b", 0): (-0.5, 1), ("b", 1): (0.0, 2)}
    schema = pa.schema([("id", pa.string()), ("response", pa.int32()), ("log_prob", pa.float64()), ("tokens", pa.int32())])
    assert pq.read_table(path).schema.equals(schema)
    write_log_probs(path, [], [])
    assert pq.read_table(path).schema.equals(schema)
    with pytest.raises(ValueError, match="zip"):
        write_log_probs(path, QUERIES[:2], [[(-1.25, 3)]])


def pairs(**changes: Any) -> PairTable:
    return PairTable(**{**vars(build_pairs(QUERIES, SCORES, settings(), 0.0)), **changes})


STEP_BETAS = {"beta/min": 0.11, "beta/mean": pytest.approx(0.13), "beta/max": 0.15}
STEP_WEIGHTS = {"weight/min": 0.25, "weight/mean": pytest.approx(0.75), "weight/max": 1.25}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"beta_schedule": "drs"}, {**STEP_BETAS, "beta/share_at_cap": 0.5}),
        ({"beta_schedule": "drs", "beta_weight": 0.0}, STEP_BETAS),
        ({"beta_schedule": "constant"}, STEP_BETAS),
        ({"beta_schedule": "madpo"}, {**STEP_BETAS, **STEP_WEIGHTS}),
        ({"beta_schedule": "beta_dpo"}, {}),
    ],
)
def test_step_logs_betas_and_weights_of_its_own_pairs(changes: dict[str, Any], expected: dict[str, float]) -> None:
    table = pairs(beta=np.array([0.11, 0.9, 0.01, 0.15]), weight=np.array([1.25, 9.0, 0.0, 0.25]))
    assert step_metrics(table, [0, 3], settings(**changes)) == expected


@pytest.mark.parametrize("leads", [True, False])
def test_leading_micro_batch_alone_reports_and_in_fp64(leads: bool) -> None:
    metrics = as_metrics({"beta/min": 0.1, "beta/max": 0.3}, leads, torch.device("cpu"))
    assert {name: value.item() for name, value in metrics.items()} == (
        {"beta/min": 0.1, "beta/max": 0.3} if leads else {"beta/min": 0, "beta/max": 0}
    )
    assert all(value.dtype == torch.float64 for value in metrics.values())
    assert as_metrics({}, leads, torch.device("cpu")) == {}
