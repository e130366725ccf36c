"""Retries of a deployment's run: which outcomes, after what pauses."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.config.settings import load_settings
from components.processes.outcome import RunOutcome
from flows.attempts import is_retried, pauses

SETTINGS = load_settings(Path(__file__).parents[2] / "params.yaml").deployments


def test_pauses_double_from_retry_to_retry() -> None:
    assert pauses(SETTINGS.model_copy(update={"retries": 4, "retry_seconds": 30.0})) == [30.0, 60.0, 120.0, 240.0]
    assert pauses(SETTINGS.model_copy(update={"retries": 0})) == []


@pytest.mark.parametrize(
    ("kind", "retried"),
    [("ok", False), ("mistake", False), ("training", False), ("infrastructure", True), ("cancelled", False), ("fault", False)],
)
def test_only_infrastructure_faults_are_retried(kind: str, retried: bool) -> None:
    assert is_retried(RunOutcome(kind)) is retried  # type: ignore[arg-type]
