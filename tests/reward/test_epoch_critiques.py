"""The critiques that the model writes before an epoch: when, by which rank, and what a resumed epoch reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.errors import StageFault
from components.families.processing import Preprocessor
from components.files import digest_file, read_json, write_json
from components.generation import critiques as writer
from components.reward import own_critiques
from components.reward import task as task_module
from components.reward.own_critiques import critiques_file, own_queries
from components.reward.task import RewardTask
from tests.reward.steps import (
    SEED,
    OneProcess,
    annotated,
    begun,
    by_hand,
    checkout,
    live,
    mixed,
    step_sums,
    training_queries,
)

__all__ = ["annotated", "checkout", "live", "mixed"]


def test_own_critiques_are_named_by_digest_for_checkpoints(mixed: RewardTask, tmp_path: Path) -> None:
    context = OneProcess(0, 1, tmp_path)
    mixed.begin_epoch(1, context)
    path = tmp_path / "critiques" / "epoch-1.json"
    assert context.extra == {"critiques": {"epoch": 1, "file": "critiques/epoch-1.json", "sha256": digest_file(path)}}
    assert read_json(path).keys() == {training_queries()[index].id for index in own_queries(5, 0.4, SEED, 1)}


def test_next_epoch_forgets_the_critiques_of_the_one_before(mixed: RewardTask, live: Preprocessor, tmp_path: Path) -> None:
    begun(mixed, 1, tmp_path)
    begun(mixed, 0, tmp_path)
    assert step_sums(mixed, 0) == pytest.approx(by_hand(mixed, live, {}), abs=1e-5)


def test_resumed_epoch_uses_the_critiques_that_it_began_with(
    mixed: RewardTask, live: Preprocessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [training_queries()[index] for index in own_queries(5, 0.4, SEED, 1)]
    stored = {query.id: [f"Critique {n}." for n in range(len(query.responses))] for query in chosen}
    path = critiques_file(tmp_path, 1)
    write_json(path, stored)
    context = OneProcess(0, 1, tmp_path, {"critiques": {"epoch": 1, "file": "critiques/epoch-1.json", "sha256": digest_file(path)}})
    monkeypatch.setattr(task_module, "write_part_files", None)  # a call would raise TypeError
    mixed.begin_epoch(1, context)
    assert context.barriers == 0
    assert step_sums(mixed, 1) == pytest.approx(by_hand(mixed, live, stored), abs=1e-5)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_resume_without_its_critiques_is_refused(mixed: RewardTask, tmp_path: Path, damage: str) -> None:
    context = OneProcess(0, 1, tmp_path)
    mixed.begin_epoch(1, context)
    path = critiques_file(tmp_path, 1)
    if damage == "changed":
        write_json(path, {**read_json(path), "q9": ["another"]})
    else:
        path.unlink()
    with pytest.raises(StageFault, match=r"epoch-1\.json is not what the checkpoint was trained on"):
        mixed.begin_epoch(1, OneProcess(0, 1, tmp_path, context.extra))


def test_checkpoint_of_the_epoch_before_gets_new_critiques(mixed: RewardTask, tmp_path: Path) -> None:
    context = OneProcess(0, 1, tmp_path)
    mixed.begin_epoch(1, context)
    critiques_file(tmp_path, 1).unlink()
    mixed.begin_epoch(2, context)
    assert context.extra["critiques"]["epoch"] == 2
    assert read_json(critiques_file(tmp_path, 2)).keys() == {training_queries()[index].id for index in own_queries(5, 0.4, SEED, 2)}


def test_own_critiques_are_written_as_set_with_whole_weights(mixed: RewardTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    whole: list[str] = []
    decode = writer.decode

    def spied(*arguments: Any, **named: Any) -> Any:
        assert whole == ["in"]
        calls.append(named)
        return decode(*arguments, **named)

    @contextlib.contextmanager
    def whole_weights() -> Iterator[None]:
        whole.append("in")
        yield
        whole.append("out")

    monkeypatch.setattr(writer, "decode", spied)
    mixed.begin_epoch(1, OneProcess(0, 1, tmp_path, whole_weights=whole_weights))
    assert [(call["max_new_tokens"], call["batch_size"]) for call in calls] == [(5, 7)]
    assert whole == ["in", "out"]


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_meet_before_and_after_the_first_joins_the_parts(
    mixed: RewardTask, tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_critiques, "PART_QUERIES", 1)
    chosen = own_queries(5, 0.4, SEED, 1)
    rows = training_queries()
    folder = tmp_path / "critiques"
    seen: list[list[str]] = []

    def meet(number: int) -> None:
        seen.append(sorted(path.name for path in folder.glob("*")))
        other = 1 - rank  # its part, and the join where it leads
        if number == 1:
            write_json(folder / f"epoch-1-part-{other}.json", {rows[chosen[other]].id: ["Other."] * len(rows[chosen[other]].responses)})
        elif rank == 1:
            parts = [read_json(folder / f"epoch-1-part-{part}.json") for part in range(2)]
            write_json(folder / "epoch-1.json", parts[0] | parts[1])

    context = OneProcess(rank, 2, tmp_path)
    context.meet = meet
    mixed.begin_epoch(1, context)
    both = ["epoch-1-part-0.json", "epoch-1-part-1.json"]
    assert seen == [[f"epoch-1-part-{rank}.json"], [*both, "epoch-1.json"] if rank == 0 else both]
    assert read_json(folder / "epoch-1.json")[rows[chosen[1 - rank]].id][0] == "Other."
