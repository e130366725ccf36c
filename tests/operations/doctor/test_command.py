from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from components.checkout import Checkout
from components.cli.operations.doctor import render
from components.operations.doctor.checks import BESIDE, CHECKS
from components.operations.doctor.findings import Finding, as_json, ok, problem, run_checks, warning
from tests.checkout import mmalign


def test_doctor_on_sound_checkout_prints_json_without_problems(whole: Path) -> None:
    began = time.monotonic()
    doctor = mmalign(whole, "doctor", "--json")
    report = json.loads(doctor.stdout)
    assert report["problems"] == 0, report
    assert doctor.returncode == 0
    assert [check["name"] for check in report["checks"]] == [*CHECKS, "deployments"]
    assert all(check.keys() == {"name", "state", "found", "cure"} for check in report["checks"])
    assert all((check["cure"] is None) == (check["state"] == "ok") for check in report["checks"])
    assert time.monotonic() - began < 60, "ten seconds are usual"
    assert not (whole / "mlflow.db").exists()


def test_problem_exits_1_and_other_checks_run(whole: Path) -> None:
    (whole / "requirements.txt").write_text("numpy==0.1\n")
    (whole / "params.yaml").write_text("model: [")
    doctor = mmalign(whole, "doctor", "--json")
    states = {check["name"]: check["state"] for check in json.loads(doctor.stdout)["checks"]}
    assert doctor.returncode == 1
    assert states["packages"] == states["settings"] == "problem"
    assert states["base model"] == "warning", "it lacks valid settings"
    assert states["git"] in {"ok", "warning"}
    assert states["torch"] == "ok"


def test_raising_check_is_problem_of_that_check(tmp_path: Path) -> None:
    def breaks(checkout: Checkout) -> Finding:
        raise OSError(f"{checkout.root} is on fire")

    findings = run_checks(Checkout(tmp_path), {"first": breaks, "second": lambda _: ok("fine"), "third": breaks}, frozenset({"first"}))
    assert list(findings) == ["first", "second", "third"]
    assert [finding.state for finding in findings.values()] == ["problem", "ok", "problem"]
    assert f"OSError: {tmp_path} is on fire" in findings["third"].text
    assert as_json(findings)["problems"] == 2


def test_checks_that_wait_for_child_process_exist() -> None:
    assert CHECKS.keys() >= BESIDE


@pytest.mark.parametrize("width", [80, 40])
def test_table_fits_terminal_and_shows_each_cure(width: int) -> None:
    findings = dict.fromkeys(CHECKS, ok("fine"))
    findings["git"] = warning("3 files changed", "commit them")
    findings["packages"] = problem("numpy 0.1 (not ==2.0)", "make install")
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(render(findings))
    text = stream.getvalue()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "cure: commit them" in text
    assert "cure: make install" in text
    assert text.splitlines()[-1] == "1 problem and 1 warning"
