from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from components.rehearsal import peak as module
from components.rehearsal.peak import RANK, PeakMemory, _is_rank

MEGABYTE = 10**6
CHILD = "import sys, time; own = bytearray(int(sys.argv[1]) * 10**6); time.sleep(1.0)"


def test_peaks_of_a_process_and_of_its_rank_are_read() -> None:
    program = (
        "import subprocess, sys, time\n"
        "own = bytearray(120 * 10**6)\n"
        "time.sleep(1.5)\n"
        "del own\n"
        f"subprocess.run([sys.executable, '-c', {CHILD!r}, '250', {RANK!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    with PeakMemory(process.pid) as peak:
        assert process.wait() == 0
    assert 120 * MEGABYTE < peak.own < 160 * MEGABYTE
    assert 250 * MEGABYTE < peak.rank < 290 * MEGABYTE
    assert peak.rank <= peak.total < 400 * MEGABYTE  # a poll may see one before it frees its bytes and the other after it took them


def test_peak_between_two_polls_is_seen() -> None:
    risen = "import sys; own = bytearray(int(sys.argv[1]) * 10**6); del own; print('fallen', flush=True); sys.stdin.read()"
    program = (
        f"import subprocess, sys; own = bytearray(120 * 10**6); del own; subprocess.run([sys.executable, '-c', {risen!r}, '250', {RANK!r}])"
    )
    freeing = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}  # KEEP_MEMORY keeps what is freed
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=freeing) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "fallen\n"
        peak = PeakMemory(process.pid)
        peak._read(psutil.Process(process.pid))
        process.communicate("")
    assert 120 * MEGABYTE < peak.own < 160 * MEGABYTE
    assert 250 * MEGABYTE < peak.rank < 290 * MEGABYTE
    assert peak.total < 100 * MEGABYTE, "peaks of two processes at two times do not add up"


def test_process_without_ranks_has_no_peak_of_a_rank() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"])
    with PeakMemory(process.pid) as peak:
        process.wait()
    assert peak.rank == 0
    assert peak.own > MEGABYTE


def test_torchrun_is_no_rank() -> None:
    assert _is_rank(["python", "-u", "-m", RANK, "--stage", "align"])
    assert not _is_rank(["python", "-m", "components.engine.launcher", "--nproc-per-node=2", "-m", RANK])
    assert not _is_rank(["python", "-m", "components.rehearsal.trial"])


def test_memory_freed_while_it_is_counted_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = iter(
        [{"VmHWM": 900, "VmRSS": 900}, {"VmHWM": 900, "VmRSS": 300}, {"VmHWM": 900, "VmRSS": 300}, {"VmHWM": 900, "VmRSS": 300}]
    )
    counted = iter([800, 250])
    monkeypatch.setattr(module, "_resident", lambda _: next(resident))
    monkeypatch.setattr(module, "_bytes", lambda _: next(counted))
    process = psutil.Process()
    assert module._used(process) == (800, 0)  # freed between the count and the look at the status
    assert module._used(process) == (250, 600)  # freed before the count


@pytest.mark.parametrize("after", [300, 900], ids=["forked", "ended"])
def test_pages_that_a_worker_shares_count_once(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    class Rank:
        def children(self, *, recursive: bool) -> list[str]:
            assert recursive
            return ["worker", "worker"]

    rank, before = Rank(), 1200 - after
    monkeypatch.setattr(module, "_bytes", lambda process: 300 if process == "worker" else after)
    assert module._with_workers(rank, before) == 900  # type: ignore[arg-type]
