"""Limits of control groups of both versions, as containers and batch systems set them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from components.processes import host


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(host, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(host, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path / "cgroup"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_no_group_leaves_the_machine(group: Path) -> None:
    group.mkdir()
    assert host.available_cores() == (8, "")
    assert host.available_memory()[1] == psutil.virtual_memory().total


def test_version_2_limit_of_parent_group_counts(group: Path) -> None:
    (group.parent / "membership").write_text("0::/job/step\n")
    write(group / "job", memory__max="2000000000", memory__current="900000000", memory__stat="anon 5\ninactive_file 300000000")
    write(group / "job/step", memory__max="max", cpu__max="150000 100000")
    assert host.available_memory() == (1_400_000_000, 2_000_000_000)
    assert host.available_cores() == (1.5, " (the container's limit; the machine shows 8)")


def test_version_1_limit_is_read_from_its_controllers(group: Path) -> None:
    (group.parent / "membership").write_text("9:name=systemd:/\n4:memory:/docker/1f\n3:cpu,cpuacct:/docker/1f\n0::/\n")
    write(
        group / "memory/docker/1f",
        memory__limit_in_bytes="1000000000",
        memory__usage_in_bytes="700000000",
        memory__stat="inactive_file 1\ntotal_inactive_file 200000000",
    )
    write(group / "memory", memory__limit_in_bytes="9223372036854771712")
    write(group / "cpu,cpuacct/docker/1f", cpu__cfs_quota_us="250000", cpu__cfs_period_us="100000")
    assert host.available_memory() == (500_000_000, 1_000_000_000)
    assert host.available_cores()[0] == 2.5


def test_version_1_without_quota_limits_no_cores(group: Path) -> None:
    (group.parent / "membership").write_text("3:cpu:/\n")
    write(group / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert host.available_cores() == (8, "")


def test_hidden_group_falls_back_to_what_the_container_shows(group: Path) -> None:
    (group.parent / "membership").write_text("0::/host/path/of/this/container\n")
    write(group, memory__max="1000000000", memory__current="100000000")
    assert host.available_memory() == (900_000_000, 1_000_000_000)
