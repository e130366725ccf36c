"""docs/judges.md: its labels can be read, its commands run, its figures are those of the labels."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.evaluation.calibration import calibrate
from components.evaluation.labels import LABELS, read_labels
from tests.checkout import ROOT

PAGE = (ROOT / "docs/judges.md").read_text()
COMMANDS = re.findall(r"^(mmalign judge [^#\n]+?) *(?:#.*)?$", PAGE, re.MULTILINE)


def test_labels_of_the_page_can_be_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```jsonl\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "labels.jsonl").write_text(block)
    assert [(one.task, one.expected) for one in read_labels(tmp_path / "labels.jsonl")] == [("right", True), ("safe", True)]
    assert all(f"`{label}`" in PAGE for label in LABELS)


@pytest.mark.parametrize("command", [one for one in COMMANDS if "--judge model" not in one and "--save" not in one])
def test_command_of_the_page_runs(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    outcome = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    assert json.loads(outcome.output)["overall"]["agreement"]["value"] == 1.0 if "--json" in command else "agreement" in outcome.output


def test_saved_sheet_is_the_measured_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dvc.yaml", "params.yaml", "ops.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    labels = ROOT / "judges/labels/third.jsonl"
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(app, ["judge", "calibrate", "--labels", str(labels), "--save"], catch_exceptions=False)
    assert "saved as judges/sheets/rules.json" in outcome.output
    sheet = json.loads((tmp_path / "judges/sheets/rules.json").read_text())
    from components.checkout import Checkout

    assert sheet == calibrate("rules", [labels], Checkout(tmp_path).settings(), Checkout(tmp_path))
    refused = CliRunner().invoke(app, ["judge", "calibrate", "--labels", str(labels), "--judge", "chain", "--save"])
    assert "the chain has no sheet of its own" in str(refused.exception)


def test_page_states_the_measured_figures() -> None:
    from components.checkout import Checkout

    labels = sorted(path for path in (ROOT / "judges/labels").glob("*.jsonl") if path.stem != "demo")
    assert f"{sum(len(path.read_text().splitlines()) for path in labels):,} short answers" in PAGE
    measured = [path for path in labels if path.stem != "first"]
    sheet = calibrate("rules", measured, Checkout(ROOT).settings(), Checkout(ROOT))
    agreement, answers = sheet["overall"]["agreement"], sheet["overall"]["answers"]
    share = f"{agreement['n']} ({agreement['n'] / answers:.3f})".replace("(0.", "(.")
    silent = f"{sheet['outside']['silent']['events']} of {sheet['outside']['answers']}"
    assert (
        f"| all sets but the first, the rules of today | {answers} | {share} | {agreement['events']} of {agreement['n']} | {silent} |"
        in PAGE
    )
