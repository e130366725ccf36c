"""The error that looks spend, and what is left, by hand."""

from __future__ import annotations

import pytest

from components.evaluation.results import heldout_digest
from components.preferences.record import Query, Response
from components.registry.reuse import NthLook, Sight
from components.statistics import Intervals


def test_looks_spend_no_more_than_their_total() -> None:
    all_looks = [NthLook(number, 0.05) for number in range(1, 31)]
    assert [one.tail for one in all_looks[:3]] == pytest.approx([0.025, 0.05 / 6, 0.05 / 12])
    assert sum(one.tail for one in all_looks) == pytest.approx(0.05 - all_looks[-1].left)
    assert all_looks[-1].left == pytest.approx(0.05 / 31)
    assert all_looks[0].next == all_looks[1]


def test_first_look_has_the_usual_interval() -> None:
    assert NthLook(1, 0.05).intervals() == Intervals(pytest.approx(0.95))
    assert NthLook(1, 0.05).sentence() == (
        "look 1 at these held-out queries: each rule may err with 2.5 % in it, of 5 % over all looks; 2.5 % is left for later ones"
    )


def test_sight_asks_for_fresh_rows_where_next_look_is_weak() -> None:
    one = Intervals(0.95).difference([1.0] * 3 + [-1.0] * 3 + [0.0] * 259)
    assert one is not None
    first, tenth = Sight.of(one, 0.05, NthLook(1, 0.05)), Sight.of(one, 0.05, NthLook(10, 0.05))
    assert first.cure() is None
    assert "cure" not in first.summary()
    assert first.now == pytest.approx(one.detectable(0.025))
    assert first.following == pytest.approx(one.detectable(0.05 / 6))
    assert tenth.following > 0.05
    assert "put fresh harmful requests in place of the held-out rows" in tenth.summary()["cure"]


def test_heldout_digest_follows_content_and_not_ids_or_order() -> None:
    responses = (Response("a", 1), Response("b", 2))
    queries = [Query.single("1", "short", "one", responses), Query.single("2", "short", "two", responses)]
    renamed = [Query.single("x", "short", "two", responses), Query.single("y", "short", "one", responses)]
    assert heldout_digest(queries) == heldout_digest(renamed)
    changed = [queries[0], Query.single("2", "short", "two", responses[::-1])]
    assert heldout_digest(changed) == heldout_digest(queries), "the order of the responses says nothing"
    other = [queries[0], Query.single("2", "short", "two", (Response("a", 2), Response("b", 1)))]
    assert heldout_digest(other) != heldout_digest(queries)
