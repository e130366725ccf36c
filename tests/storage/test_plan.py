from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from components.checkout import Checkout
from components.stages import STAGE_NAMES
from components.storage.plan import Step, plan
from tests.checkout import clean_environment, started

DVC = str(Path(sys.executable).parent / "dvc")


def repro(folder: Path, *stages: str) -> None:
    subprocess.run([DVC, "repro", *stages], cwd=folder, check=True, env=clean_environment(), capture_output=True)


def change(folder: Path, key: str, value: str) -> str:
    """The text of params.yaml with one line's value replaced."""
    text = (folder / "params.yaml").read_text()
    lines = [f"{line.split(':')[0]}: {value}" if line.strip().startswith(f"{key}:") else line for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def actions(steps: dict[str, Step]) -> list[str]:
    return [steps[name].action for name in STAGE_NAMES]


def test_plan_follows_a_checkout_through_its_states(checkout: Path) -> None:
    # Nothing has run.
    assert actions(plan(Checkout(checkout))) == ["run"] * 6
    repro(checkout)
    # All is done.
    assert actions(plan(Checkout(checkout))) == ["skip"] * 6

    # GPUs, ports and schedules are no setting of a result.
    ops = (checkout / "ops.yaml").read_text()
    (checkout / "ops.yaml").write_text(ops.replace("gpus: 0", "gpus: 1").replace("timezone: UTC", "timezone: Europe/Berlin"))
    assert actions(plan(Checkout(checkout))) == ["skip"] * 6
    (checkout / "ops.yaml").write_text(ops)

    # A setting that is only thought of: nothing is written, and only what depends on it is named.
    text = change(checkout, "beta", "0.2")
    before = (checkout / "params.yaml").read_bytes()
    thought = plan(Checkout(checkout), text)
    assert actions(thought) == ["skip", "skip", "skip", "skip", "run", "run_if_changed"]
    assert thought["align"].reason == "alignment.beta changed from 0.1 to 0.2"
    assert "align" in thought["evaluate"].reason
    assert (checkout / "params.yaml").read_bytes() == before
    assert started(checkout) == list(STAGE_NAMES)

    # The setting is written and run; with the old value back, DVC knows the outputs, down to the last stage.
    (checkout / "params.yaml").write_text(text)
    repro(checkout)
    (checkout / "params.yaml").write_bytes(before)
    assert actions(plan(Checkout(checkout))) == ["skip", "skip", "skip", "skip", "restore", "restore"]
    repro(checkout)
    assert started(checkout) == [*STAGE_NAMES, "align", "evaluate"]
    assert actions(plan(Checkout(checkout))) == ["skip"] * 6

    # A lost output is in the cache; with the cache gone too, it has to be made again.
    (checkout / "artifacts/reward/result.txt").unlink()
    steps = plan(Checkout(checkout))
    assert actions(steps) == ["skip", "restore", "skip", "skip", "skip", "skip"]
    assert "artifacts/reward/result.txt is missing" in steps["reward"].reason
    for cached in (checkout / ".dvc/cache/files").rglob("*"):
        if cached.is_file():
            cached.chmod(0o644)
            cached.unlink()
    assert plan(Checkout(checkout))["reward"].action == "run"


def test_changed_facts_make_only_evaluation_stale(checkout: Path) -> None:
    repro(checkout)
    (checkout / "data/truth/truth.jsonl").write_text("no\n")
    steps = plan(Checkout(checkout))
    assert actions(steps) == ["skip"] * 5 + ["run"]
    assert steps["evaluate"].reason == "data/truth changed"


def test_entry_that_met_a_full_disk_is_no_record(checkout: Path) -> None:
    repro(checkout, "validate")
    for entry in (checkout / ".dvc/cache/runs").glob("*/*/*"):
        entry.chmod(0o644)
        entry.write_bytes(b"")
    (checkout / "dvc.lock").unlink()
    assert plan(Checkout(checkout))["validate"].action == "run"
