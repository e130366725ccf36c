from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.operations.environment import enter_checkout, find_checkout
from tests.checkout import ROOT, mmalign, mmalign_here

COMMANDS = [[], ["run"], ["plan"], ["stage"], ["demo"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    script = (
        "import sys\nfrom components.cli.main import main\n"
        f"sys.argv = ['mmalign', *{command!r}, '--help']\ncode = main()\n"
        "print(code, *sorted(set(sys.modules) & {'torch', 'transformers', 'prefect', 'mlflow', 'dvc', 'pandas', 'great_expectations'}))"
    )
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "Usage: mmalign" in shown
    assert shown.splitlines()[-1] == "0"


def test_help_takes_less_than_half_cpu_second() -> None:
    before = os.times()
    subprocess.run([sys.executable, "-m", "components.cli.main", "--help"], cwd=ROOT, check=True, capture_output=True)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


def test_mistake_is_one_sentence_and_exit_code_2(checkout: Path) -> None:
    completed = mmalign(checkout, "run", "--set", "alignment.bta=0.2")
    assert completed.returncode == 2
    assert completed.stderr == "mmalign: --set alignment.bta=0.2: unknown key 'alignment.bta'; did you mean 'alignment.beta'?\n"
    assert not (checkout / "reports").exists()


def test_misspelt_settings_key_is_one_sentence(checkout: Path) -> None:
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("beta_weight:", "beta_wait:"))
    for command in (["plan"], ["run"]):
        completed = mmalign(checkout, *command)
        assert completed.returncode == 2
        assert completed.stderr.startswith("mmalign: ")
        assert "params.yaml: unknown key 'alignment.beta_wait'; did you mean 'alignment.beta_weight'?" in completed.stderr
        assert completed.stderr.count("\n") == 1


def test_unknown_stage_lists_stages(checkout: Path) -> None:
    for command in (["stage", "trian"], ["run", "--only", "trian"]):
        completed = mmalign(checkout, *command)
        assert completed.returncode == 2
        assert "validate, reward, critique, reference, align, evaluate" in completed.stderr


def test_unexpected_fault_names_log_and_exits_with_1(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr("components.storage.plan.plan", fail)
    completed = mmalign_here(checkout, "plan")
    assert completed.returncode == 1
    assert completed.stderr.count("\n") == 1
    log = checkout / completed.stderr.strip().rpartition(" ")[2]
    assert "Traceback" in log.read_text()


def test_command_outside_checkout_names_cure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no dvc\.yaml in it or above it"):
        find_checkout(tmp_path)


def test_root_is_detected_below_and_own_tools_come_first(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout / "data/preferences")
    monkeypatch.setattr(os, "environ", {**os.environ, "PATH": "/usr/bin:/bin"})
    assert enter_checkout() == Checkout(checkout)
    assert Path.cwd() == checkout
    assert os.environ["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert os.environ["DVC_NO_ANALYTICS"] == "1"


def test_plan_prints_json_and_changes_no_settings(checkout: Path) -> None:
    before = (checkout / "params.yaml").stat()
    completed = mmalign(checkout, "plan", "--set", "alignment.beta=0.2", "--json")
    stages = json.loads(completed.stdout)["stages"]
    assert list(stages) == ["validate", "reward", "critique", "reference", "align", "evaluate"]
    assert all(step.keys() == {"action", "reason"} for step in stages.values())
    after = (checkout / "params.yaml").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_refused_data_removal_starts_nothing(checkout: Path) -> None:
    (checkout / "data/preferences/data.jsonl").write_text("1\n")
    (checkout / "data/truth/truth.jsonl").unlink()
    began = time.monotonic()
    completed = mmalign(checkout, "run")
    assert completed.returncode == 2
    assert "--accept-data" in completed.stderr
    assert not list((checkout / "logs").glob("prefect-server*")), f"a server was started in {time.monotonic() - began:.0f} s"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("rollback", "mm-policy"), "mm-policy has no champion: there is nothing to roll back"),
        (("rollback", "mm-polcy"), "there is no model 'mm-polcy'; the models are mm-reward, mm-policy"),
        (("promote", "mm-policy", "3"), "mm-policy has no version 3"),
        (("promote", "mm-policy", "3", "--override"), "needs a reason"),
    ],
)
def test_registry_mistake_is_one_sentence(checkout: Path, arguments: tuple[str, ...], sentence: str) -> None:
    completed = mmalign(checkout, *arguments)
    assert completed.returncode == 2
    assert sentence in completed.stderr
    assert len(completed.stderr.strip().splitlines()) == 1
