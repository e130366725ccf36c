"""Every profile through all stages by the real commands, with two ranks: its engine, ZeRO stage, precision, attention and features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.families.hub.published import table
from tests.shapes.walk import make_walk

PROFILES = sorted(published.profile for published in table().values())
ADAPTERS = {"model": {"lora": {"rank": 4, "merge": False}}}


def ends_with_metrics(root: Path) -> None:
    """The summary of a run whose stages all ran."""
    summary = json.loads((root / "reports/summary.json").read_text())
    assert summary["status"] == "ok"
    assert {stage["status"] for stage in summary["stages"].values()} == {"ran"}
    assert summary["data"]["quarantined"] == 0
    assert summary["reward"]["acc"] is not None
    assert summary["policy"]["preference_accuracy"] is not None


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("profile", PROFILES)
def test_profile_runs_all_stages(tmp_path: Path, profile: str) -> None:
    walk = make_walk(tmp_path, profile)
    completed = walk.mmalign("run", "--accept-data", timeout=3500)
    assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-4000:]
    ends_with_metrics(walk.root)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_profile_with_adapters_runs_all_stages(tmp_path: Path) -> None:
    walk = make_walk(tmp_path, "llava-ov-0.5b", **ADAPTERS)
    completed = walk.mmalign("run", "--accept-data", timeout=3500)
    assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-4000:]
    ends_with_metrics(walk.root)
    assert (walk.root / "artifacts/align/model/adapter_config.json").is_file()
