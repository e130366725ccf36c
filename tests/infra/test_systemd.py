"""infra/systemd by systemd's own check, and by what the units rely on."""

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


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    escaped = subprocess.run(["systemd-escape", "--path", str(ROOT)], capture_output=True, text=True, check=True).stdout.strip()
    units = [tmp_path / path.name.replace("@", f"@{escaped}") for path in UNITS.iterdir()]
    for path, unit in zip(UNITS.iterdir(), units, strict=True):
        shutil.copyfile(path, unit)
    assert len(units) == 3
    done = subprocess.run(["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Unknown" not in done.stderr, done.stderr
    for unit in units:
        if unit.suffix == ".service":
            unit.write_text(unit.read_text().replace("[Service]", "[Service]\nNoSuchKey=1"))
    broken = subprocess.run(["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, check=False)
    assert "NoSuchKey" in broken.stderr, "the check sees mistakes"


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_unit_runs_a_command_of_ours_as_an_ordinary_user_who_can_become_nobody_else(path: Path) -> None:
    service = read(path)["Service"]
    assert service["User"] not in {"", "root"}
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    program, command = service["ExecStart"].split()[:2]
    assert program == "/%I/.venv/bin/mmalign"
    assert command in {"up", "backup"}


def test_the_services_have_the_time_to_end_before_anything_is_killed() -> None:
    service = read(UNITS / "mmalign@.service")["Service"]
    assert int(service["TimeoutStopSec"]) > 2 * STOP_SECONDS + 15, "supervision.stop waits so long at most"
    assert service["KillMode"] == "mixed", "the signal goes to `mmalign up` alone, which ends the services in their order"
    assert service["Restart"] == "always"


def test_the_timer_starts_the_backup_and_makes_up_for_a_night_without_power() -> None:
    assert (UNITS / "mmalign-backup@.service").is_file()
    assert read(UNITS / "mmalign-backup@.timer")["Timer"]["Persistent"] == "true"
