from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components.checkout import Checkout
from components.errors import UserError
from components.rehearsal.media import MediumSize
from components.rehearsal.parameters import architecture
from components.rehearsal.sample import Row, Totals, choose, read_sample, train_queries
from tests.rehearsal.tiny import CONFIGS, settings

TINY = architecture({"model_type": "llava_onevision", **CONFIGS["llava_onevision"]})


def row(tokens: float, patches: int = 0, medium: str | None = None, targets: float = 0.0) -> Row:
    return Row(f"{tokens}", tokens, targets, 2, () if medium is None else (medium,), MediumSize(patches, patches, patches))


def write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in rows))


def question(number: int, words: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "question": "x" * words, "models_output": ["a", "bc"], "score_reasons": ["d", ""], **fields}


def test_longest_and_largest_rows_are_always_chosen() -> None:
    rows = [row(float(number), patches=1000 - number, targets=float(number in range(50, 54))) for number in range(100)]
    chosen = choose(rows, 16)
    assert len(chosen) == 16
    assert {96.0, 97.0, 98.0, 99.0} <= {one.tokens for one in chosen}
    assert {0.0, 1.0} <= {one.tokens for one in chosen}
    assert {50.0, 51.0, 52.0, 53.0} <= {one.tokens for one in chosen}, "those with the longest answers"
    assert [one.tokens for one in chosen] == sorted(one.tokens for one in chosen)
    assert choose(rows, 16) == chosen


@pytest.mark.parametrize("count", [1, 2, 3, 7, 99])
def test_chosen_rows_are_as_many_as_asked_for(count: int) -> None:
    rows = [row(float(number)) for number in range(100)]
    chosen = choose(rows, count)
    assert len({one.tokens for one in chosen}) == count
    assert max(one.tokens for one in chosen) == 99.0


def test_few_rows_are_all_chosen() -> None:
    rows = [row(3.0), row(1.0)]
    assert choose(rows, 2) == rows


def test_totals_count_each_medium_once() -> None:
    assert Totals.of([row(2.0, medium="a"), row(3.0, medium="a"), row(4.0)]) == Totals(3, 6, 9.0, 1)


def test_tokens_follow_characters_and_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "data/preferences"
    write(folder / "data.jsonl", [question(0, 63, image="a.png"), "no json", "[1]", question(1, 63)])
    write(folder / "heldout.jsonl", [question(2, 10)])
    Image.new("RGB", (64, 32)).save(folder / "a.png")
    sample = read_sample(Checkout(tmp_path), settings(), TINY)
    first, second = sample.train
    assert second.tokens == pytest.approx((63 + 3 + 1) / 3.5)
    assert second.targets == pytest.approx((3 + 1) / 3.5)
    assert first.tokens == pytest.approx(second.tokens + first.size.tokens)
    assert first.size.tokens > 0
    assert sample.whole["train"] == Totals(2, 4, first.tokens + second.tokens, 1)
    assert sample.taken("heldout") == sample.whole["heldout"]


def test_all_turns_and_media_of_a_row_count(tmp_path: Path) -> None:
    folder = tmp_path / "data/preferences"
    turns = [{"from": "human", "value": "x" * 20}, {"from": "gpt", "value": "x" * 5}, {"role": "user", "content": "x" * 10}]
    several = {key: value for key, value in question(0, 0, image=["a.png", "b.png"]).items() if key != "question"}
    write(folder / "data.jsonl", [several | {"conversations": turns}, question(1, 35, image="a.png"), question(2, 35)])
    write(folder / "heldout.jsonl", [question(3, 10)])
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 32)).save(folder / name)
    both, one, none = read_sample(Checkout(tmp_path), settings(), TINY).train
    assert both.media == ("a.png", "b.png")
    assert both.tokens - none.tokens == pytest.approx(2 * (one.tokens - none.tokens))
    assert both.size.tokens == 2 * one.size.tokens


def test_heldout_rows_are_split_off_where_no_file_has_them(tmp_path: Path) -> None:
    write(tmp_path / "data/preferences/data.jsonl", [question(number, number) for number in range(50)])
    sample = read_sample(Checkout(tmp_path), settings(), TINY)
    assert (sample.whole["train"].queries, sample.whole["heldout"].queries) == (40, 10)
    assert not {one.line for one in sample.train} & {one.line for one in sample.heldout}


def test_training_rows_fill_three_steps_of_both_trainings() -> None:
    values = settings(reward={"queries_per_step": 4}, alignment={"queries_per_step": 6})
    assert train_queries(values) == 18


def test_file_without_rows_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "data/preferences/data.jsonl", ["no json"])
    with pytest.raises(UserError, match=r"data\.jsonl has 0 usable rows"):
        read_sample(Checkout(tmp_path), settings(), TINY)


def test_training_rows_fill_a_batch_of_passes_over_all(tmp_path: Path) -> None:
    write(tmp_path / "data/preferences/data.jsonl", [question(number, 63) for number in range(90)])
    write(tmp_path / "data/preferences/heldout.jsonl", [question(99, 10)])
    values = settings(
        reward={"queries_per_step": 2},
        alignment={"queries_per_step": 2},
        critique={"batch_size": 8},
        training={"ranks": 2, "batch_rows": 4, "row_tokens": 100, "threads": 1},
    )
    tokens = (63 + 3 + 1) / 3.5
    assert len(read_sample(Checkout(tmp_path), values, TINY).train) == math.ceil(2 * 4 * 100 / tokens) == 42
