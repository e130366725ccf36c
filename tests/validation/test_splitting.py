import logging

import pytest

from components.errors import UserError
from components.validation.splitting import split_off, tied_rows
from components.validation.summary import Summary
from tests.validation.summaries import summary


def heldout(rows: list[Summary], share: float = 0.2) -> set[str]:
    return {rows[position].id for position in split_off(rows, share, "data.jsonl")}


def photographs(pictures: int, questions: int, **changes: str) -> list[Summary]:
    """Several questions a picture."""
    return [
        summary(number, pictures=[f"photo {number // questions}"], wording=f"question {number % questions}", **changes)
        for number in range(pictures * questions)
    ]


def test_requested_share_is_held_out() -> None:
    assert 150 <= len(heldout([summary(number) for number in range(1000)])) <= 250


@pytest.mark.parametrize("pictures", [5, 12, 60])
def test_no_picture_stands_on_both_sides(pictures: int) -> None:
    rows = photographs(pictures, 8)
    held_out = heldout(rows)
    sides = {picture: {row.id in held_out for row in rows if row.pictures == [picture]} for picture in {row.pictures[0] for row in rows}}
    assert all(len(side) == 1 for side in sides.values())
    assert 0.15 <= len(held_out) / len(rows) <= 0.25


def test_group_stays_together_across_pictures() -> None:
    rows = [summary(number, group=f"conversation {number // 5}") for number in range(200)]
    held_out = heldout(rows)
    assert {row.group for row in rows if row.id in held_out}.isdisjoint(row.group for row in rows if row.id not in held_out)
    assert held_out


def test_ties_reach_through_pictures_and_groups() -> None:
    chain = [summary(0, pictures=["a"]), summary(1, pictures=["a", "b"]), summary(2, pictures=["b"], group="g"), summary(3, group="g")]
    assert sorted(map(sorted, tied_rows([*chain, summary(4)]).values())) == [[0, 1, 2, 3], [4]]


def test_same_question_without_medium_stays_together() -> None:
    rows = [summary(number, pictures=[], content=f"text {number // 2}") for number in range(100)]
    held_out = heldout(rows, 0.5)
    assert all((rows[n].id in held_out) == (rows[n + 1].id in held_out) for n in range(0, 100, 2))


def test_shared_wording_does_not_tie_rows() -> None:
    assert len(tied_rows([summary(number, wording="what is it?") for number in range(100)])) == 100


def test_new_rows_and_new_ids_move_no_old_ones() -> None:
    old = [summary(number) for number in range(400)]
    more = [row._replace(id=f"new-{row.id}") for row in old] + [summary(number) for number in range(400, 800)]
    moved, after = heldout(old), heldout(more)
    before = {row.pictures[0] for row in old if row.id in moved}
    assert before == {row.pictures[0] for row in more[:400] if row.id in after}


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_neither_side_is_left_empty(share: float) -> None:
    assert 1 <= len(heldout([summary(number) for number in range(5)], share)) <= 4


def test_large_group_is_trained_on_and_small_ones_held_out(caplog: pytest.LogCaptureFixture) -> None:
    rows = [summary(number, group="large" if number < 90 else None) for number in range(100)]
    with caplog.at_level(logging.WARNING):
        held_out = heldout(rows)
    assert held_out == {row.id for row in rows[90:]}
    assert "10 of 100 rows are held out (10.0 %) and not validate.heldout_share 20.0 %" in caplog.text


def test_rows_that_are_all_tied_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.jsonl: none of the rows can be held out, since all rows share a medium or a group"):
        heldout(photographs(1, 8))
    with pytest.raises(UserError, match="it holds no two different queries"):
        heldout([summary(1), summary(1)])
