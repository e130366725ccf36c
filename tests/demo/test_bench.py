"""The bundled benchmark of reward models: what its rows are, and what it shares with the other rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.files import digest_folder
from demo.bench import ROWS, build_bench
from tests.demo.test_build import rows_of


@pytest.fixture(scope="module")
def rows(data: Path) -> list[dict[str, Any]]:
    return rows_of(data / "bench" / ROWS)


def test_build_gives_the_bundled_bytes(data: Path, tmp_path: Path) -> None:
    assert build_bench(tmp_path / "bench") == 458
    assert digest_folder(tmp_path / "bench") == digest_folder(data / "bench")


def test_rows_have_the_release_layout(rows: list[dict[str, Any]], data: Path) -> None:
    assert len(rows) >= 170
    for row in rows:
        medium = "video" if "video" in row else "image"
        assert row.keys() == {"id", medium, "prompt", "chosen", "rejected", "chosen_reason", "rejected_reason", "clusters"}
        path = data / "bench" / row[medium]
        assert path.is_dir() if medium == "video" else path.is_file()
    assert {row.get("image", row.get("video")).split("/")[1] for row in rows} == {"short", "long", "mcq", "safety", "video"}


def test_bench_shares_no_picture_or_wording_with_training(rows: list[dict[str, Any]], data: Path) -> None:
    training, heldout = (rows_of(data / "preferences" / name) for name in ("data.jsonl", "heldout.jsonl"))
    pictures = {picture for row in rows for picture in row["clusters"]["picture"].split("+")}
    assert not pictures & {picture for row in (*training, *heldout) for picture in row["clusters"]["picture"].split("+")}
    for kind in ("wording", "request"):
        assert not {row["clusters"].get(kind, row["id"]) for row in rows} & {row["clusters"].get(kind) for row in training}
    assert not {row["prompt"] for row in rows} & {row["question"] for row in training}


def test_chosen_answer_has_less_faults(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["chosen"] != row["rejected"]
        assert "Wrong" in row["rejected_reason"], json.dumps(row)
