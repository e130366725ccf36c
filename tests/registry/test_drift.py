"""What a verdict says of data that differ from the champion's, and of held-out rows that training shares."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.checkout import Checkout
from components.files import write_json
from components.preferences.record import Query, Response, write_queries
from components.registry.drift import Moved, compare, total_variation
from tests.registry.promoting import evaluated, judge, reward_model, train
from tests.tracking.dvc import keep_in_dvc

__all__ = ["evaluated", "reward_model"]

QUERY = Query.single("q", "short", "What is it?", (Response("A cup.", 1), Response("A big dog.", 2)))


def numbered(count: int, **changes: Any) -> list[Query]:
    """Queries that differ in their answers alone."""
    return [replace(QUERY, id=f"q{n}", responses=(Response(f"A cup {n:03}.", 1), *QUERY.responses[1:]), **changes) for n in range(count)]


@pytest.mark.parametrize(
    ("before", "after", "distance"),
    [
        ({"a": 10}, {"a": 3}, 0.0),
        ({"a": 1, "b": 1}, {"a": 1, "b": 3}, 0.25),  # halves against a quarter and three
        ({"a": 4}, {"b": 9}, 1.0),
        ({"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 2}, 0.5),
    ],
)
def test_total_variation_by_hand(before: dict[str, int], after: dict[str, int], distance: float) -> None:
    assert total_variation(before, after) == pytest.approx(distance)


def test_same_rows_under_other_ids_are_the_same_queries() -> None:
    before = numbered(40)
    drift = compare("train", 3, before, [replace(query, id=f"new-{query.id}") for query in reversed(before)])
    assert (drift.queries, drift.new, drift.lost, drift.moved) == (40, 0, 0, ())
    assert drift.sentence() == "training data: 0 of 40 queries are new since champion 3, 0 are gone; no property moved"


def test_new_and_lost_rows_are_counted_with_their_repeats() -> None:
    before = numbered(40)
    drift = compare("heldout", 3, before, [*before[5:], before[10], *numbered(43)[40:]])
    assert (drift.queries, drift.new, drift.lost) == (39, 4, 5), "one row came a second time"


def turned(query: Query) -> Query:
    first, second = query.responses
    return replace(query, responses=(replace(first, rank=2), replace(second, rank=1)))


@pytest.mark.parametrize(
    ("change", "name", "values"),
    [
        (lambda query: replace(query, source="shop"), "source", [("not named", 1.0, 0.5), ("shop", 0.0, 0.5)]),
        (lambda query: replace(query, category="long"), "category", [("long", 0.0, 0.5), ("short", 1.0, 0.5)]),
        (lambda query: replace(query, safety="harmful"), "safety", [("harmful", 0.0, 0.5), ("not marked", 1.0, 0.5)]),
        (turned, "rank of the longest response", [("best", 1.0, 0.5), ("not best", 0.0, 0.5)]),
        (
            lambda query: replace(query, responses=(*query.responses, Response("A cat.", 3))),
            "number of responses",
            [("2", 1.0, 0.5), ("3", 0.0, 0.5)],
        ),
        (
            lambda query: replace(query, responses=tuple(replace(response, critique="Good.") for response in query.responses)),
            "critique",
            [("with", 0.0, 0.5), ("without", 1.0, 0.5)],
        ),
        (
            lambda query: replace(query, responses=(query.responses[0], replace(query.responses[1], rank=1))),
            "ties",
            [("with", 0.0, 0.5), ("without", 1.0, 0.5)],
        ),
    ],
)
def test_property_of_half_the_rows_moved(change: Callable[[Query], Query], name: str, values: list[tuple[str, float, float]]) -> None:
    before = numbered(80)
    moved = {item.name: item for item in compare("train", 1, before, [*before[:40], *map(change, before[40:])]).moved}
    assert moved[name] == Moved(name, 0.5, tuple(values))


def test_lengths_count_by_powers_of_two() -> None:
    before = numbered(80)
    longer = [replace(query, turns=(replace(query.turns[0], pieces=("What is it, and what is it for?",)),)) for query in before]
    (moved,) = compare("train", 1, before, longer).moved
    assert moved == Moved("characters of the question", 1.0, (("16-31", 0.0, 1.0), ("8-15", 1.0, 0.0)))
    assert str(moved) == "characters of the question (100.0% of the rows moved: 16-31 0.0% to 100.0%, 8-15 100.0% to 0.0%)"


def test_few_rows_and_small_changes_move_nothing() -> None:
    few = numbered(6)
    assert compare("train", 1, few, [replace(few[0], source="shop"), *few[1:]]).moved == (), "a sixth of six rows is chance"
    many = numbered(4000)
    changed = [replace(query, source="shop") for query in many[:160]] + many[160:]
    assert compare("train", 1, many, changed).moved == (), "4 % of the rows is certain, and less than is worth a word"


def validate(checkout: Path, queries: list[Query]) -> None:
    """What validation leaves of training queries, in DVC's cache and in dvc.lock."""
    folder = Path("artifacts/validate/train")
    shutil.rmtree(checkout / folder, ignore_errors=True)
    write_queries(checkout / folder / "queries.parquet", queries)
    lock = yaml.safe_load((checkout / "dvc.lock").read_text())
    lock["stages"]["validate"]["outs"] = []
    (checkout / "dvc.lock").write_text(yaml.safe_dump(lock))
    keep_in_dvc(checkout, "validate", folder)


def test_verdict_compares_the_data_with_the_champions(evaluated: Path) -> None:
    before = numbered(80)
    validate(evaluated, before)
    train(evaluated, 1, talk=0.7)
    first = judge(evaluated)
    assert first.promoted
    assert not any("queries are new" in reason for reason in first.models["mm-policy"].reasons), "there was no champion"

    validate(evaluated, [*before[10:], *(replace(query, source="shop") for query in numbered(120)[80:])])
    train(evaluated, 2, talk=0.9)
    second = judge(evaluated)
    sentence = (
        "training data: 40 of 110 queries are new since champion 1, 10 are gone; moved: source (36.4% of the rows moved: "
        "not named 100.0% to 63.6%, shop 0.0% to 36.4%)"
    )
    assert sentence in second.models["mm-policy"].reasons
    drift = second.summary()["gate"]["mm-policy"]["drift"]
    assert drift == {"train": {"version": 1, "queries": 110, "new": 40, "gone": 10, "moved": {"source": 0.3636}}}

    train(evaluated, 3, talk=0.95)
    third = judge(evaluated)
    assert "drift" not in third.summary()["gate"]["mm-policy"], "the data are the second champion's"


def test_verdict_names_data_of_the_champion_that_are_gone(evaluated: Path) -> None:
    validate(evaluated, numbered(8))
    train(evaluated, 1, talk=0.7)
    judge(evaluated)
    shutil.rmtree(evaluated / ".dvc/cache")
    validate(evaluated, numbered(9))
    train(evaluated, 2, talk=0.9)
    reasons = judge(evaluated).models["mm-policy"].reasons
    assert any("training data of champion 1 (" in reason and "neither in DVC's cache nor in a remote" in reason for reason in reasons)


@pytest.mark.parametrize("leaked", [0, 12])
def test_verdict_names_held_out_queries_that_leak(evaluated: Path, leaked: int) -> None:
    write_json(Checkout(evaluated).artifact("validate", "metrics.json"), {"leaked_queries": leaked, "heldout_queries": 400})
    train(evaluated, 1, talk=0.7)
    for outcome in judge(evaluated).models.values():
        sentences = [reason for reason in outcome.reasons if reason.startswith("12 of 400 held-out queries share a picture or a group")]
        assert len(sentences) == (1 if leaked else 0)
