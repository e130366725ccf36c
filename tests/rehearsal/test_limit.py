"""A stage that does not fit a limit of address space: the rehearsal says so, what it proposes fits, and one step larger dies."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from benchmarks._slice import Slice, make_slice, write_slice
from components.stages import command, module
from tests.checkout import ROOT

LARGE, SMALL = 160, 16  # rows of a micro-batch; the larger one is a whole step
SETTINGS = {
    "reward": {"epochs": 1, "max_steps": 2, "queries_per_step": LARGE},
    "alignment": {"epochs": 1, "max_steps": 2, "queries_per_step": LARGE},
    "evaluate": {"max_new_tokens": 16, "samples": 2},
    "critique": {"max_new_tokens": 16},
    "training": {"batch_rows": LARGE},
}


@contextmanager
def peak_address_space(root: Path) -> Iterator[list[int]]:
    """The most bytes of address space that a rank of training below `root` had, as the list's one item when the block has ended."""
    peaks, ended = [0], threading.Event()

    def sample() -> None:
        while not ended.wait(0.1):
            for process in psutil.process_iter(["cmdline"]):
                line = process.info["cmdline"] or []
                if module("worker") in line and str(root) in line and not any(word.startswith("--nproc") for word in line):
                    status = Path(f"/proc/{process.pid}/status")
                    text = status.read_text() if status.exists() else ""
                    peaks[0] = max([peaks[0], *(1024 * int(number) for number in re.findall(r"VmPeak:\s+(\d+)", text))])

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def run(made: Slice, *overrides: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """All stages, each process below a limit of address space."""
    sets = [word for override in overrides for word in ("--set", override)]
    words = [*command("cli"), "run", "--bundled-rows", "--accept-data", "--no-rehearsal", *sets]
    if limit is not None:
        words = ["prlimit", f"--as={limit}", *words]
    return subprocess.run(words, cwd=made.root, env=made.environment, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("data")
def test_refused_size_dies_and_proposed_size_fits(tmp_path: Path) -> None:
    made = make_slice(tmp_path, ROOT / "data/base", write_slice, SETTINGS)
    made.environment["MALLOC_ARENA_MAX"] = "1"  # else threads reserve address space by chance, more than the rows take
    peaks = {}
    for rows in (LARGE, SMALL):
        with peak_address_space(made.root) as peak:
            ended = run(made, f"training.batch_rows={rows}")
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
        peaks[rows] = peak[0]
    assert peaks[LARGE] - peaks[SMALL] > 500e6, peaks
    limit = (peaks[LARGE] + peaks[SMALL]) // 2

    settings = made.root / "params.yaml"
    settings.write_text(settings.read_text().replace(f'"batch_rows": {SMALL}', f'"batch_rows": {LARGE}'))
    words = ["prlimit", f"--as={limit}", *command("cli"), "rehearse", "--json"]
    rehearsed = subprocess.run(words, cwd=made.root, env=made.environment, capture_output=True, text=True, timeout=1200, check=False)
    assert rehearsed.returncode == 2, rehearsed.stdout[-2000:] + rehearsed.stderr[-2000:]
    report = json.loads(rehearsed.stdout)
    assert not report["fits"]
    changes = dict(change.split("=") for change in report["changes"])
    proposed = int(changes["training.batch_rows"])
    assert proposed < LARGE

    fits = run(made, *report["changes"], limit=limit)
    assert fits.returncode == 0, fits.stdout[-3000:] + fits.stderr[-2000:]
    # A query less a step: what was trained without a limit would be restored.
    larger = run(made, f"training.batch_rows={2 * proposed}", f"reward.queries_per_step={LARGE - 1}", limit=limit)
    assert larger.returncode == 1, larger.stdout[-3000:] + larger.stderr[-2000:]
    assert re.search("allocate|memory", larger.stdout + larger.stderr)
