"""The benchmark of the chunked head at minute sizes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import logprobs
from benchmarks._harness import ROOT


def test_both_sides_give_same_log_probs_and_gradients() -> None:
    difference, losses = logprobs._compare(logprobs.Inputs(logprobs.Size(hidden=16, vocabulary=500, tokens=64)))
    assert losses["chunked"] == pytest.approx(losses["full"], rel=1e-5)
    assert difference["max_log_prob_difference"] < 1e-5
    assert difference["max_rel_head_grad_error"] < 1e-5
    assert difference["max_rel_hidden_grad_error"] < 1e-5


def test_differing_side_ends_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(logprobs.SIDES, "chunked", lambda head, hidden, target: 2 * logprobs.full_logits(head, hidden, target))
    with pytest.raises(SystemExit, match="different losses"):
        logprobs._compare(logprobs.Inputs(logprobs.Size(hidden=16, vocabulary=50, tokens=8)))


@pytest.mark.slow
def test_command_prints_both_ratios() -> None:
    command = [sys.executable, "-m", "benchmarks.logprobs", "--small", "--json", "--threads", "1"]
    report = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert report["peak_memory_ratio"] > 1
    assert report["time_ratio"] > 0
    assert report["time_ratio_zero3"] > 0
    assert report["losses"].keys() == {"full", "chunked", "zero3"}
    assert report["max_rel_head_grad_error"] < 1e-4
    # Full logits can't take less than the logits themselves, and chunks not less than the head's gradient.
    assert report["peak_mb"]["full"] > report["full_logits_mb"]
    assert report["peak_mb"]["chunked"] > report["head_gradient_mb"]
