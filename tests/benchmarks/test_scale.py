"""The scale benchmark: its line through the times, its counter of openings, its data; slow: all of it in minute sizes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _scale_data as data
from benchmarks import scale
from benchmarks._scale_ranks import Openings
from components.preferences.release import query_from_row

KEYS = {
    "first_step_seconds_30000",
    "bytes_per_token_per_rank",
    "plan_exponent",
    "validate_exponent",
    "plan_seconds_1000000",
    "decodes_of_cached_media",
}


@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
def test_exponent_is_that_of_the_times(power: float) -> None:
    counts = (10_000, 20_000, 40_000, 80_000)
    slope, r2 = scale.exponent(counts, [3e-3 * count**power for count in counts])
    assert slope == pytest.approx(power)
    assert r2 == pytest.approx(1)


def test_times_off_a_line_have_a_low_r2() -> None:
    assert scale.exponent((1, 2, 4, 8), [1.0, 4.0, 1.0, 4.0])[1] < scale.LEAST_R2


def test_openings_of_all_processes_are_counted(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    openings = Openings(tmp_path)
    (tmp_path / "a").read_text()
    subprocess.run(
        [sys.executable, "-c", "import sys; [open(name).read() for name in sys.argv[1:]]", tmp_path / "b", tmp_path / "c"], check=True
    )
    list(tmp_path.iterdir())  # the folder itself does not count
    assert openings.close() == 3


def test_nothing_opened_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    openings = Openings(tmp_path)
    (tmp_path / "a").stat()
    assert openings.close() == 0


def test_rows_are_the_queries_of_distinct_texts() -> None:
    queries = list(data.queries(50, 7))
    read = [query_from_row(json.loads(row)) for row in data.rows(50, 7)]
    assert [(q.id, q.turns, [m.path for m in q.media]) for q in read] == [(q.id, q.turns, [m.path for m in q.media]) for q in queries]
    assert [[(r.text, r.rank, r.critique) for r in q.responses] for q in read] == [
        [(r.text, r.rank, r.critique) for r in q.responses] for q in queries
    ]
    assert len({response.text for query in queries for response in query.responses}) == 50 * data.RESPONSES


def test_pictures_have_the_sizes_of_the_rows(tmp_path: Path) -> None:
    from PIL import Image

    data.save_pictures(tmp_path / "pictures", 12)
    pictures = [Image.open(tmp_path / f"pictures/{number}.png") for number in range(12)]
    assert [picture.size for picture in pictures] == [data.size_of(number) for number in range(12)]
    assert len({np.asarray(picture).tobytes() for picture in pictures}) == 12


@pytest.mark.slow
def test_all_of_it_runs_on_real_ranks_and_opens_no_picture() -> None:
    report = scale.run(scale.SMALL, 1, any_load=True)
    assert report.keys() >= KEYS
    assert report["decodes_of_cached_media"] == 0
    assert report["first_step_seconds_30000"] > 0
    assert report["tree_tokens"]["120"] > report["tree_tokens"]["40"] > 0


def test_load_is_awaited_until_it_is_low_or_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now, loads = [0.0], [4.0, 4.0, 0.5, 9.0]
    monkeypatch.setattr(scale.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(scale.os, "getloadavg", lambda: (loads.pop(0), 0.0, 0.0))
    monkeypatch.setattr(scale.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(scale.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    assert scale.load_once_low(180) == 0.25
    assert now == [10.0]
    loads[:] = [4.0, 6.0, 8.0]
    assert scale.load_once_low(5) == 3.0
    loads[:] = [8.0]
    assert scale.load_once_low(0) == 4.0
