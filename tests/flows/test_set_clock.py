"""A run during which somebody, or a time server, sets the machine's clock: libfaketime sets it for the run's processes alone."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.files import read_json
from tests.checkout import behave, checkout, checkout_template, mmalign, start_mmalign, started, wait_for

__all__ = ["checkout", "checkout_template"]

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


@pytest.mark.slow
@pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (apt-get install faketime)")
@pytest.mark.parametrize("shift", ["-1h", "+1h"])
def test_clock_set_during_run_changes_no_result(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: str) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    for name, value in {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # no system lets anybody set that one
    }.items():
        monkeypatch.setenv(name, value)
    behave(checkout, "validate", "wait")
    run = start_mmalign(checkout, "run")
    wait_for((checkout / "waiting.validate").exists, 600)
    clock.write_text(shift)
    behave(checkout, "validate")
    assert run.wait(900) == 0, (checkout / ".git/mmalign.out").read_text()
    summary = read_json(Checkout(checkout).summary)
    assert summary["status"] == "ok"
    assert 0 < summary["seconds"] < 3000
    assert all(0 < stage["seconds"] < 3000 for stage in summary["stages"].values())
    assert "ran in" in " ".join((checkout / ".git/mmalign.out").read_text().split())

    # The clock is set right: the next run finds nothing stale, and both are in the record with times that a person can read.
    clock.write_text("+0")
    before = started(checkout)
    completed = mmalign(checkout, "run", timeout=900)
    assert completed.returncode == 0, completed.stderr
    assert started(checkout) == before
    shown = mmalign(checkout, "status").stdout
    assert "-1 day" not in shown, "a negative time"
    assert datetime.now().astimezone().strftime("%Y-%m-%d") in shown
