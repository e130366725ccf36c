from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.processes.slots import gpus
from components.processes.slots.gpus import machine_gpus, visible_gpus
from components.processes.slots.taking import slot_name

FIRST = "GPU-5c8b6f0a-1111-2222-3333-444455556666"
SECOND = "GPU-9d0e1f2b-1111-2222-3333-444455556666"


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake nvidia-smi with the real one's output for two GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = '--query-gpu=uuid --format=csv,noheader' ] && printf '{FIRST}\\n{SECOND}\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a driver."""
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        (None, [FIRST, SECOND]),
        ("", []),
        ("1", [SECOND]),
        ("1, 0", [SECOND, FIRST]),
        ("0,0", [FIRST]),
        ("0,5,1", [FIRST]),  # as CUDA does: nothing after a missing GPU
        ("-1", []),
        ("1,-1,0", [SECOND]),
        (SECOND, [SECOND]),
        ("GPU-9d0e", [SECOND]),
        ("GPU-", []),  # a prefix of both
        ("MIG-7a1b", ["MIG-7a1b"]),
    ],
)
def test_visible_gpus_are_named_by_uuid(monkeypatch: pytest.MonkeyPatch, variable: str | None, seen: list[str]) -> None:
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == seen


@pytest.mark.usefixtures("two_gpus")
def test_slot_is_named_by_gpu_uuid() -> None:
    assert [slot_name(gpu) for gpu in machine_gpus()] == [f"gpu-{FIRST[4:]}", f"gpu-{SECOND[4:]}"]


@pytest.mark.usefixtures("no_gpus")
def test_driver_files_name_gpus_without_nvidia_smi(tmp_path: Path) -> None:
    for bus, gpu in (("0000:c1:00.0", SECOND), ("0000:41:00.0", FIRST)):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t\t NVIDIA H100\nIRQ:   \t\t 18\nGPU UUID: \t {gpu}\nDevice Minor: \t 0\n")
    assert machine_gpus() == [FIRST, SECOND]
    (tmp_path / "0000:c1:00.0/information").write_text("GPU UUID: \t GPU-????????-????-????-????-????????????\n")
    for number in (0, 1):
        (tmp_path / f"nvidia{number}").touch()
    assert machine_gpus() == ["0", "1"], "a sleeping GPU has no UUID there, so all have numbers"


@pytest.mark.usefixtures("no_gpus")
def test_without_driver_only_named_gpus_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible_gpus() == ["0", "1"]


@pytest.mark.usefixtures("no_gpus")
def test_failing_nvidia_smi_means_no_gpus(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'\nexit 9\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert machine_gpus() == []
