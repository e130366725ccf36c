from dataclasses import replace

import pytest

from components.errors import UserError
from components.preferences.record import Medium, Query, Response
from components.validation.splitting import split_off


def query(number: int, prompt: str | None = None, digest: str | None = None) -> Query:
    responses = (Response("a", 1), Response("b", 2))
    return Query.single(f"q{number}", "short", prompt or f"Question {number}?", responses, Medium("x.png", "image", digest))


def test_requested_share_is_held_out_and_no_query_is_lost() -> None:
    queries = [query(number) for number in range(1000)]
    train, heldout = split_off(queries, 0.2, "data.jsonl")
    assert 150 <= len(heldout) <= 250
    assert {q.split for q in train} == {"train"}
    assert {q.split for q in heldout} == {"heldout"}
    assert sorted(q.id for q in [*train, *heldout]) == sorted(q.id for q in queries)


def test_split_preserves_order() -> None:
    train, heldout = split_off([query(number) for number in range(100)], 0.3, "data.jsonl")
    for side in (train, heldout):
        numbers = [int(q.id[1:]) for q in side]
        assert numbers == sorted(numbers)


def test_same_content_stays_together_despite_case_and_space() -> None:
    queries = [
        query(2 * n + twin, prompt=(f"Is it  {n}? " if twin else f"is it {n}?"), digest="d" * 64) for n in range(100) for twin in (0, 1)
    ]
    train, heldout = split_off(queries, 0.5, "data.jsonl")
    assert {int(q.id[1:]) // 2 for q in train}.isdisjoint(int(q.id[1:]) // 2 for q in heldout)


def test_same_prompt_about_another_picture_is_another_group() -> None:
    train, heldout = split_off([query(n, prompt="What is it?", digest=f"{n:064d}") for n in range(100)], 0.5, "data.jsonl")
    assert train
    assert heldout


def test_new_rows_and_new_ids_move_no_old_ones() -> None:
    old = [query(number) for number in range(300)]
    _, before = split_off(old, 0.2, "data.jsonl")
    _, after = split_off([replace(q, id=f"new-{q.id}") for q in old] + [query(number) for number in range(300, 600)], 0.2, "data.jsonl")
    assert {q.prompt for q in before} == {q.prompt for q in after} & {q.prompt for q in old}


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_neither_side_is_left_empty(share: float) -> None:
    train, heldout = split_off([query(number) for number in range(5)], share, "data.jsonl")
    assert train
    assert heldout


def test_single_group_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.jsonl holds no two different queries"):
        split_off([query(1, prompt="Same?"), query(2, prompt="Same?")], 0.2, "data.jsonl")
