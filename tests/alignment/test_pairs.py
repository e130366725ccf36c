from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.alignment.pairs import build_pairs, write_pairs
from components.config.alignment import AlignmentSettings
from components.config.settings import load_settings
from components.errors import UserError
from tests.conftest import ROOT
from tests.tiny import queries


def settings(**changes: object) -> AlignmentSettings:
    return load_settings(ROOT / "params.yaml").alignment.model_copy(update=changes)


def scores() -> dict[tuple[str, int], float]:
    return {(query.id, number): -1.5 * r.rank + 0.1 * number for query in queries() for number, r in enumerate(query.responses)}


def test_ties_make_no_pairs_and_every_other_two_do() -> None:
    table = build_pairs(queries(), scores(), settings(), 0.0)
    assert len(table.query) == sum(len(q.pairs()) for q in queries()) == 6 + 1 + 2 + 3 + 5
    for index, winner, loser in zip(table.query.tolist(), table.winner.tolist(), table.loser.tolist(), strict=True):
        assert queries()[index].responses[winner].rank < queries()[index].responses[loser].rank


def test_permuted_scores_change_the_betas() -> None:
    recorded = scores()
    shuffled = dict(zip(recorded, np.random.default_rng(0).permutation(list(recorded.values())).tolist(), strict=True))
    assert (
        build_pairs(queries(), recorded, settings(), 0.0).beta.tolist() != build_pairs(queries(), shuffled, settings(), 0.0).beta.tolist()
    )


def test_the_beta_follows_from_the_scores_by_hand() -> None:
    recorded = scores()
    table = build_pairs(queries(), recorded, settings(margins="raw"), 0.0)
    identity = queries()[int(table.query[0])].id
    margin = recorded[identity, int(table.winner[0])] - recorded[identity, int(table.loser[0])]
    assert table.margin[0] == pytest.approx(margin)
    assert table.beta[0] == pytest.approx(0.1 * (1 + 0.5 * (1 - np.exp(-0.5 * margin))))


def test_a_missing_score_is_treated_as_the_setting_says() -> None:
    recorded = scores()
    del recorded["q0", 0]
    assert np.isnan(build_pairs(queries(), recorded, settings(), 0.0).margin).sum() == 3
    assert len(build_pairs(queries(), recorded, settings(missing_margin="drop"), 0.0).beta) == 14
    with pytest.raises(UserError, match="'q0'"):
        build_pairs(queries(), recorded, settings(missing_margin="error"), 0.0)


@pytest.mark.parametrize("changes", [{"missing_margin": "drop"}, {"margins": "raw"}, {"beta_schedule": "madpo"}])
def test_missing_scores_are_an_error_only_where_they_count(changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match="no training pair has a score"):
        build_pairs(queries(), {}, settings(**changes), 0.0)
    assert set(build_pairs(queries(), {}, settings(beta_schedule="constant"), 0.0).beta) == {0.1}


def test_the_table_of_pairs_holds_what_the_losses_need(tmp_path: Path) -> None:
    recorded = scores()
    del recorded["q1", 0]
    table = build_pairs(queries(), recorded, settings(beta_schedule="madpo"), 0.0)
    policy = {(q.id, number): -10.0 - number for q in queries() for number in range(len(q.responses))}
    write_pairs(tmp_path / "pairs.parquet", queries(), table, policy, {key: value + 1 for key, value in policy.items()})
    rows = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
    assert [row["weight"] for row in rows] == table.weight.tolist()
    missing = next(row for row in rows if row["id"] == "q1")
    assert missing == {
        "id": "q1",
        "winner": 1,
        "loser": 0,
        "margin": None,
        "beta": 0.1,
        "weight": 1.0,
        "policy_winner": -11.0,
        "policy_loser": -10.0,
        "reference_winner": -10.0,
        "reference_loser": -9.0,
    }


def test_pairs_of_undiagnosed_queries_have_nulls(tmp_path: Path) -> None:
    table = build_pairs(queries(), scores(), settings(), 0.0)
    reference = {(q.id, number): -10.0 for q in queries() for number in range(len(q.responses))}
    policy = {key: value for key, value in reference.items() if key[0] != "q1"}
    write_pairs(tmp_path / "pairs.parquet", queries(), table, policy, reference)
    rows = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
    assert (
        {row["id"] for row in rows if row["policy_winner"] is None} == {row["id"] for row in rows if row["policy_loser"] is None} == {"q1"}
    )


def test_only_ties_is_a_sentence() -> None:
    with pytest.raises(UserError, match="final_ranking"):
        build_pairs([], {}, settings(), 0.0)
