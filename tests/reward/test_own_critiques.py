"""Which queries use their own critiques, and how ranks write and join them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.files import read_json, write_json
from components.preferences.record import Query
from components.reward import own_critiques
from components.reward.own_critiques import critiques_file, merge_part_files, own_queries, write_part_files
from tests.tiny import queries

CHOSEN = [0, 2, 3, 4, 1]
ARGUMENTS: dict[str, Any] = {"instruction": "Judge.", "max_new_tokens": 6, "batch_size": 7}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the writer of critiques is asked for. It writes the response's own text, so that every critique says where it belongs."""
    requests: list[dict[str, Any]] = []

    def write(model: Any, preprocessor: Any, items: Sequence[tuple[Query, str]], **named: Any) -> list[str]:
        requests.append({"model": model, "preprocessor": preprocessor, "ids": [query.id for query, _ in items], **named})
        return [f"{query.id}: {text}" for query, text in items]

    monkeypatch.setattr(own_critiques, "write_critiques", write)
    monkeypatch.setattr(own_critiques, "PART_QUERIES", 2)
    return requests


def write_parts(scratch: Path, rank: int, ranks: int, chosen: Sequence[int] = CHOSEN, epoch: int = 1) -> None:
    write_part_files("model", "preprocessor", queries(), chosen, scratch, epoch, rank, ranks, **ARGUMENTS)  # type: ignore[arg-type]


def expected(numbers: Sequence[int]) -> dict[str, list[str]]:
    return {queries()[n].id: [f"{queries()[n].id}: {r.text}" for r in queries()[n].responses] for n in numbers}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_first_epoch_uses_no_own_critiques(share: float) -> None:
    assert own_queries(20, share, 0, epoch=0) == []


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 5), (0.5, 10), (0.97, 19), (1.0, 20)])
def test_later_epochs_draw_the_share_of_the_queries(share: float, count: int) -> None:
    for epoch in (1, 2):
        drawn = own_queries(20, share, 7, epoch)
        assert drawn == sorted(np.random.default_rng((7, epoch, 1)).permutation(20)[:count].tolist())
        assert len(set(drawn)) == count
        assert all(type(index) is int for index in drawn), "numpy's integers are not JSON"


def test_each_epoch_and_seed_draws_anew() -> None:
    draws = [own_queries(100, 0.5, seed, epoch) for seed in (0, 1) for epoch in (1, 2)]
    assert len({tuple(draw) for draw in draws}) == 4
    assert own_queries(100, 0.5, 0, 1) == draws[0]


def test_critiques_of_an_epoch_lie_in_a_file_of_its_own(tmp_path: Path) -> None:
    assert critiques_file(tmp_path, 3) == tmp_path / "critiques" / "epoch-3.json"


@pytest.mark.parametrize(("rank", "ranks", "parts"), [(0, 1, [0, 1, 2]), (0, 2, [0, 2]), (1, 2, [1]), (2, 4, [2]), (3, 4, [])])
def test_ranks_write_every_part_once(tmp_path: Path, calls: list[dict[str, Any]], rank: int, ranks: int, parts: list[int]) -> None:
    write_parts(tmp_path, rank, ranks)
    written = {path.name: read_json(path) for path in (tmp_path / "critiques").glob("*")} if parts else {}
    assert written == {f"epoch-1-part-{number}.json": expected(CHOSEN[2 * number : 2 * number + 2]) for number in parts}
    assert len(calls) == len(parts)


def test_writer_gets_model_settings_and_all_responses_of_a_part(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    write_parts(tmp_path, 1, 2)
    (call,) = calls
    assert call == {"model": "model", "preprocessor": "preprocessor", "ids": ["q3"] * 3 + ["q4"] * 4, **ARGUMENTS}


def test_parts_of_a_killed_run_are_not_written_twice(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    finished = tmp_path / "critiques" / "epoch-1-part-1.json"
    write_json(finished, {"q3": ["as it was"]})
    write_parts(tmp_path, 0, 1)
    assert [call["ids"][0] for call in calls] == ["q0", "q1"]
    assert read_json(finished) == {"q3": ["as it was"]}


def test_parts_of_another_epoch_do_not_count(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    write_parts(tmp_path, 0, 1, epoch=1)
    write_parts(tmp_path, 0, 1, epoch=2)
    assert len(calls) == 6
    assert len(list((tmp_path / "critiques").glob("epoch-2-part-*.json"))) == 3


@pytest.mark.parametrize("chosen", [CHOSEN, CHOSEN[:4], CHOSEN[:1]])
def test_parts_are_joined_into_the_epochs_file(tmp_path: Path, calls: list[dict[str, Any]], chosen: list[int]) -> None:
    for rank in range(2):
        write_parts(tmp_path, rank, 2, chosen)
    merge_part_files(tmp_path, 1, len(chosen))
    assert read_json(critiques_file(tmp_path, 1)) == expected(chosen)
    assert len(calls) == -(-len(chosen) // 2)


def test_join_reads_the_parts_of_the_present_draw_only(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    write_parts(tmp_path, 0, 1)
    merge_part_files(tmp_path, 1, 4)
    assert read_json(critiques_file(tmp_path, 1)) == expected(CHOSEN[:4])
    assert len(calls) == 3


def test_missing_part_is_an_error_and_leaves_no_file(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    write_parts(tmp_path, 0, 2)
    with pytest.raises(FileNotFoundError, match="part-1"):
        merge_part_files(tmp_path, 1, 5)
    assert not critiques_file(tmp_path, 1).exists()
    assert len(calls) == 2


def test_part_holds_128_queries_so_that_a_kill_costs_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_critiques, "write_critiques", lambda _model, _preprocessor, items, **_: [text for _, text in items])
    many = [0, 1] * 64 + [2]
    write_parts(tmp_path, 0, 1, many)
    written = sorted(path.name for path in (tmp_path / "critiques").glob("*"))
    assert written == ["epoch-1-part-0.json", "epoch-1-part-1.json"]
    assert read_json(tmp_path / "critiques" / written[1]).keys() == {"q2"}
