"""Rates from counts, by hand."""

from __future__ import annotations

import pytest
import torch

from components.engine import throughput
from components.engine.throughput import Meter, summarise


def test_metrics_of_two_processes_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "peak_operations", lambda: 1e6)
    one, other = Meter(), Meter()
    one.add(600, 800, 1.5, 3e5)
    one.add(300, 400, 0.5, 2e5)
    other.add(900, 1200, 1.0, 4e5)
    metrics = summarise([one, other], [0.5, 0.75])
    assert metrics == {
        "tokens_per_second": 1800 / 2.0,  # the slower of the two
        "padding_share": pytest.approx(1 - 1800 / 2400),
        "peak_memory_gb": 0.75,
        "mfu": pytest.approx(9e5 / (2.0 * 1e6 * 2)),
    }


def test_what_was_not_measured_is_none_and_a_cpu_has_no_peak() -> None:
    metrics = Meter().summary()
    assert (metrics["tokens_per_second"], metrics["padding_share"], metrics["mfu"]) == (None, None, None)
    assert metrics["peak_memory_gb"] is not None
    assert metrics["peak_memory_gb"] > 0.01
    if not torch.cuda.is_available():
        meter = Meter()
        meter.add(1, 1, 1.0, 1.0)
        assert meter.summary()["mfu"] is None


def test_more_tokens_than_slots_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="5 tokens do not fit into 4 slots"):
        Meter().add(5, 4, 1.0, 1.0)
