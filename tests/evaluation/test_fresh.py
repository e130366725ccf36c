"""The fresh part of the held-out queries: which queries it has, and that nothing else shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from components.checkout import Checkout
from components.config.evaluate import EvaluateSettings
from components.errors import UserError
from components.evaluation import reevaluate, stage
from components.evaluation.fresh import fresh_of, split_fresh
from components.evaluation.results import heldout_digest
from components.files import read_json
from components.preferences.record import Medium, Query, read_queries
from tests.evaluation.test_stage_parts import models, root, settings_of
from tests.settings import shipped

__all__ = ["models", "root"]


def query(number: int, *, picture: str | None = None, group: str | None = None) -> Query:
    medium = Medium(f"{number}.png", "image", digest=picture or f"digest {number}")
    return Query.single(f"q{number}", "short", "What is it?", (), medium, group=group)


def fresh_ids(queries: Sequence[Query], share: float) -> set[str]:
    return {queries[index].id for index in split_fresh(queries, share)[1]}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_fresh_share_is_about_the_setting(share: float) -> None:
    queries = [query(number) for number in range(400)]
    rest, fresh = split_fresh(queries, share)
    assert sorted([*rest, *fresh]) == list(range(400))
    assert share * 400 * 0.75 <= len(fresh) <= share * 400 * 1.25


def test_without_share_every_query_is_reported() -> None:
    assert split_fresh([query(0)], 0.0) == ([0], [])


def test_side_follows_from_content_alone() -> None:
    queries = [query(number) for number in range(200)]
    chosen = fresh_ids(queries, 0.3)
    assert fresh_ids(queries[::-1], 0.3) == chosen
    renamed = [replace(one, id=f"other {one.id}") for one in queries]
    assert fresh_ids(renamed, 0.3) == {f"other {name}" for name in chosen}
    assert fresh_ids([*queries, *(query(number) for number in range(200, 260))], 0.3) >= chosen, "new rows move no old ones"


def test_queries_that_share_a_picture_or_group_stay_together() -> None:
    queries = [query(number, picture=f"picture {number // 4}") for number in range(100)]
    queries += [query(number, group=f"group {number // 5}") for number in range(100, 200)]
    same_scene = [replace(query(number), clusters={"picture": f"scene {number // 2}"}) for number in range(200, 300)]
    fresh = fresh_ids([*queries, *same_scene], 0.3)
    for size, first, last in ((4, 0, 100), (5, 100, 200), (2, 200, 300)):
        for start in range(first, last, size):
            assert len({f"q{number}" in fresh for number in range(start, start + size)}) == 1


def test_queries_tied_together_have_no_fresh_part() -> None:
    with pytest.raises(UserError, match=r"evaluate.fresh_share is 0.2, but all held-out rows share a medium or a group: add held-out rows"):
        split_fresh([query(number, picture="one") for number in range(30)], 0.2)


@pytest.mark.parametrize("share", [-0.1, 0.51, float("nan")])
def test_share_outside_its_bounds_is_refused(share: float) -> None:
    values: dict[str, Any] = shipped()["evaluate"]
    assert EvaluateSettings.model_validate({**values, "fresh_share": 0.5}).fresh_share == 0.5
    with pytest.raises(ValidationError, match="fresh_share"):
        EvaluateSettings.model_validate({**values, "fresh_share": share})


def column(path: Path, name: str) -> list[Any]:
    values: list[Any] = pq.read_table(path)[name].to_pylist()
    return values


@pytest.mark.usefixtures("models")
def test_fresh_queries_are_in_no_metric_table_or_sample(root: Path) -> None:
    checkout, settings = Checkout(root), settings_of(evaluate={"fresh_share": 0.34, "judges": ["ground_truth", "rules", "reward_model"]})
    metrics = stage.run(settings, checkout).metrics
    queries = read_queries(checkout.queries("heldout"))
    rest, fresh = ([queries[i].id for i in part] for part in split_fresh(queries, 0.34))
    assert (len(rest), len(fresh)) == (2, 1)
    for name in ("base.parquet", "aligned.parquet", "reward.parquet"):
        assert column(checkout.results / name, "id") == rest
        assert column(checkout.fresh / name, "id") == fresh
    evaluated = checkout.artifacts / "evaluate"
    assert column(evaluated / "answers.parquet", "id") == rest * 2
    assert column(checkout.fresh / "answers.parquet", "id") == fresh * 2
    assert set(column(evaluated / "scores.parquet", "id")) == set(rest)
    assert len((evaluated / "samples/samples.jsonl").read_text().splitlines()) == 2
    assert (metrics["policy.aligned.counts.answers"], metrics["reward.pairs"], metrics["policy.compared_reward_model"]) == (2, 2, 2)
    context = read_json(checkout.results / "context.json")
    assert context["heldout"] == heldout_digest(queries)
    assert context["fresh"] == heldout_digest([one for one in queries if one.id in fresh])
    whole = stage.run(settings_of(), checkout)
    assert whole.metrics["policy.aligned.counts.answers"] == 3
    assert column(checkout.fresh / "aligned.parquet", "id") == []
    without = read_json(checkout.results / "context.json")
    assert (without["fresh"], without["heldout"]) == (None, context["heldout"])
    assert without["context"] != context["context"]


@pytest.mark.usefixtures("models")
def test_earlier_model_is_evaluated_on_both_parts(root: Path) -> None:
    checkout, settings = Checkout(root), settings_of(evaluate={"fresh_share": 0.34})
    stage.run(settings, checkout)
    table = root / "scratch/results/key.parquet"
    table.parent.mkdir(parents=True)
    reevaluate.evaluate_policy(settings, checkout, root / "some/champion", table)
    assert table.read_bytes() == (checkout.results / "aligned.parquet").read_bytes()
    assert fresh_of(table).read_bytes() == (checkout.fresh / "aligned.parquet").read_bytes()
