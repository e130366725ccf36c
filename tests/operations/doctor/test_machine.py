from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.operations.doctor import machine
from components.processes import host
from tests.operations.doctor.whole_checkout import settings_changed


def test_fewer_cores_than_threads_is_warning(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert machine.cores(Checkout(whole)).state == "ok"
    settings_changed(whole, "training", ranks=4)
    assert machine.cores(Checkout(whole)).state == "warning"


def test_container_limits_count(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    monkeypatch.setattr(host, "MEMBERSHIP", tmp_path / "none")
    for name, text in {
        "cpu.max": "150000 100000\n",
        "memory.max": "1000000000\n",
        "memory.current": "900000000\n",
        "memory.stat": "anon 5\ninactive_file 300000000\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert machine.available_cores() == (1.5, " (the container's limit; the machine shows 8)")
    assert machine.available_memory() == (400_000_000, 1_000_000_000)
    assert machine.cores(Checkout(whole)).state == "warning"
    assert machine.memory(Checkout(whole)).state == "warning"


def test_memory_too_small_for_ranks_is_warning(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: (int(2.1e9), int(8e9)))
    assert machine.memory(Checkout(whole)).state == "ok"
    settings_changed(whole, "training", ranks=3)
    finding = machine.memory(Checkout(whole))
    assert finding.state == "warning"
    assert "training may take 3.0 GB (3 ranks)" in finding.text


def test_folders_must_be_writable_and_temporary_files_have_room(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.writable(Checkout(whole)).state == "ok"
    monkeypatch.setattr(machine, "free_bytes", lambda _: int(0.2e9))
    finding = machine.writable(Checkout(whole))
    assert finding.state == "problem"
    assert "TMPDIR" in str(finding.cure)
    monkeypatch.setattr(os, "access", lambda path, _: path != whole)
    assert machine.writable(Checkout(whole)).text == f"this user can't write to {whole}"
