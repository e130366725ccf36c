"""Which queries use their own critiques, and how ranks write and join them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from components.engine.task import EpochContext
from components.files import read_json, write_json
from components.preferences.record import Query
from components.reward import own_critiques
from components.reward.own_critiques import critiques_file, merge_part_files, own_queries, write_part_files
from tests.tiny import queries

CHOSEN = [0, 2, 3, 4, 1]


class Writer:
    """A writer of critiques that notes its queries. It writes the response's own text, so that every critique says where it belongs."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, items: Sequence[tuple[Query, str]]) -> list[str]:
        self.calls.append([query.id for query, _ in items])
        return [f"{query.id}: {text}" for query, text in items]


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Writer:
    monkeypatch.setattr(own_critiques, "PART_QUERIES", 2)
    return Writer()


def write_parts(writer: Writer, scratch: Path, rank: int, ranks: int, chosen: Sequence[int] = CHOSEN, epoch: int = 1) -> None:
    write_part_files(writer, queries(), chosen, epoch, EpochContext(rank, ranks, scratch))


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
def test_ranks_write_every_part_once(tmp_path: Path, writer: Writer, rank: int, ranks: int, parts: list[int]) -> None:
    write_parts(writer, tmp_path, rank, ranks)
    written = {path.name: read_json(path) for path in (tmp_path / "critiques").glob("*")} if parts else {}
    assert written == {f"epoch-1-part-{number}.json": expected(CHOSEN[2 * number : 2 * number + 2]) for number in parts}
    assert len(writer.calls) == len(parts)


def test_writer_gets_all_responses_of_a_part(tmp_path: Path, writer: Writer) -> None:
    write_parts(writer, tmp_path, 1, 2)
    assert writer.calls == [["q3"] * 3 + ["q4"] * 4]


def test_parts_of_a_killed_run_are_not_written_twice(tmp_path: Path, writer: Writer) -> None:
    finished = tmp_path / "critiques" / "epoch-1-part-1.json"
    write_json(finished, {"q3": ["as it was"]})
    write_parts(writer, tmp_path, 0, 1)
    assert [call[0] for call in writer.calls] == ["q0", "q1"]
    assert read_json(finished) == {"q3": ["as it was"]}


def test_parts_of_another_epoch_do_not_count(tmp_path: Path, writer: Writer) -> None:
    write_parts(writer, tmp_path, 0, 1, epoch=1)
    write_parts(writer, tmp_path, 0, 1, epoch=2)
    assert len(writer.calls) == 6
    assert len(list((tmp_path / "critiques").glob("epoch-2-part-*.json"))) == 3


@pytest.mark.parametrize("chosen", [CHOSEN, CHOSEN[:4], CHOSEN[:1]])
def test_parts_are_joined_into_the_epochs_file(tmp_path: Path, writer: Writer, chosen: list[int]) -> None:
    for rank in range(2):
        write_parts(writer, tmp_path, rank, 2, chosen)
    merge_part_files(tmp_path, 1, len(chosen))
    assert read_json(critiques_file(tmp_path, 1)) == expected(chosen)
    assert len(writer.calls) == -(-len(chosen) // 2)


def test_join_reads_the_parts_of_the_present_draw_only(tmp_path: Path, writer: Writer) -> None:
    write_parts(writer, tmp_path, 0, 1)
    merge_part_files(tmp_path, 1, 4)
    assert read_json(critiques_file(tmp_path, 1)) == expected(CHOSEN[:4])
    assert len(writer.calls) == 3


def test_missing_part_is_an_error_and_leaves_no_file(tmp_path: Path, writer: Writer) -> None:
    write_parts(writer, tmp_path, 0, 2)
    with pytest.raises(FileNotFoundError, match="part-1"):
        merge_part_files(tmp_path, 1, 5)
    assert not critiques_file(tmp_path, 1).exists()
    assert len(writer.calls) == 2


def test_part_holds_128_queries_so_that_a_kill_costs_no_more(tmp_path: Path) -> None:
    many = [0, 1] * 64 + [2]
    write_parts(Writer(), tmp_path, 0, 1, many)
    written = sorted(path.name for path in (tmp_path / "critiques").glob("*"))
    assert written == ["epoch-1-part-0.json", "epoch-1-part-1.json"]
    assert read_json(tmp_path / "critiques" / written[1]).keys() == {"q2"}
