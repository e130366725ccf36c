"""infra/systemd against systemd's own check, and against the units' assumptions."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from components.operations.services.supervision import STOP_SECONDS
from tests.checkout import ROOT

UNITS = ROOT / "infra/systemd"
SERVICES = sorted(UNITS.glob("*.service"))


def read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser


def test_systemd_accepts_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    escaped = subprocess.run(["systemd-escape", "--path", str(ROOT)], capture_output=True, text=True, check=True).stdout.strip()
    units = [tmp_path / path.name.replace("@", f"@{escaped}") for path in UNITS.iterdir()]
    for path, unit in zip(UNITS.iterdir(), units, strict=True):
        shutil.copyfile(path, unit)
    assert len(units) == 3
    completed = subprocess.run(["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert "Unknown" not in completed.stderr, completed.stderr
    for unit in units:
        if unit.suffix == ".service":
            unit.write_text(unit.read_text().replace("[Service]", "[Service]\nNoSuchKey=1"))
    broken = subprocess.run(["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, check=False)
    assert "NoSuchKey" in broken.stderr, "the check sees mistakes"


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_units_run_commands_as_unprivileged_user(path: Path) -> None:
    service = read(path)["Service"]
    assert service["User"] not in {"", "root"}
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    program, command = service["ExecStart"].split()[:2]
    assert program == "/%I/.venv/bin/mmalign"
    assert command in {"up", "backup"}


def test_units_give_services_time_to_end() -> None:
    service = read(UNITS / "mmalign@.service")["Service"]
    assert int(service["TimeoutStopSec"]) > 2 * STOP_SECONDS + 15, "supervision.stop waits so long at most"
    assert service["KillMode"] == "mixed", "the signal goes to `mmalign up` alone, which ends the services in their order"
    assert service["Restart"] == "always"


def test_timer_starts_backup_and_makes_up_missed_ones() -> None:
    assert (UNITS / "mmalign-backup@.service").is_file()
    assert read(UNITS / "mmalign-backup@.timer")["Timer"]["Persistent"] == "true"
