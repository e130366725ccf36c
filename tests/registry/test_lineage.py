from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from components.checkout import Checkout
from components.cli.registry.lineage import lineage as lineage_command
from components.errors import UserError
from components.files import write_json
from components.registry.lineage import lineage_of, rebuild_commands
from components.registry.registry import Registry
from components.registry.versions import CHAMPION, Version
from components.tracking import store
from components.tracking.recorder import Recorder
from components.tracking.runs import base_tags, close_parent, open_parent, record_stages
from tests.tiny import save_checkpoint
from tests.tracking.dvc import keep_in_dvc

FOLDERS = {"reward": Path("artifacts/reward/model"), "align": Path("artifacts/align/model")}
REASONS = ["conversation +7.5 (2.1 to 12.9)", "unsafe rate [bold]no higher[/]"]


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def root(checkout: Path) -> Path:
    """A checkout under DVC, whose data are committed and cached, and whose models lie in the cache."""
    (checkout / "data").mkdir()
    (checkout / "data/rows.jsonl").write_text("first\n")
    for number, (stage, path) in enumerate(FOLDERS.items()):
        save_checkpoint(checkout / path, seed=number)
        keep_in_dvc(checkout, stage, path)
    (checkout / "data.dvc").unlink()
    (checkout / "dvc.yaml").write_text("stages:\n  align:\n    cmd: mmalign stage align\n    outs: [artifacts/align/model]\n")
    add_data(checkout)
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "data")
    return checkout


def add_data(root: Path) -> None:
    """`dvc add data`."""
    from dvc.repo import Repo

    with Repo(str(root)) as repository:
        repository.add([str(root / "data")])


def run_pipeline(root: Path) -> str:
    """Record a run with both training stages, as `mmalign run` does; returns its id."""
    parent = open_parent(Checkout(root), "mmalign run")
    stages = {}
    for stage, path in FOLDERS.items():
        recorder = Recorder.create(Checkout(root), stage, parent=parent, tags={"mmalign.stage": stage, **base_tags(Checkout(root))})
        digest = (
            Registry(Checkout(root)).register("mm-reward", root / path, whole=False, run_id=None, tags={}).digest
            if stage == "reward"
            else "d"
        )
        record = {
            "mlflow_run_id": recorder.run_id,
            "started": "2026-11-24T17:46:09+00:00",
            "seconds": 3.5,
            "git_sha": git(root, "rev-parse", "HEAD"),
            "dirty": True,
            "dvc": {},
            "digests": {f"model:{path}": digest},
        }
        write_json(root / path.parent / "run.json", record)
        recorder.artifact(root / path.parent / "run.json")
        recorder.end("FINISHED")
        stages[stage] = {"status": "ran", "mlflow_run_id": recorder.run_id}
    record_stages(Checkout(root), parent, stages)
    close_parent(Checkout(root), parent, "FINISHED")
    return parent


def register(root: Path, run_id: str | None) -> Version:
    tags = {
        "mmalign.verdict": "promoted",
        "mmalign.reasons": json.dumps(REASONS),
        "mmalign.promoted_by": "a run",
        "mmalign.promoted_because": REASONS[0],
    }
    return Registry(Checkout(root)).register("mm-policy", root / FOLDERS["align"], whole=False, run_id=run_id, tags=tags)


@pytest.fixture
def version(root: Path) -> Version:
    """A version of a run whose changed settings nobody committed."""
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("beta: 0.1 ", "beta: 0.2 "))
    (root / "note with space.py").write_text("new\n")
    parent = run_pipeline(root)
    stage_run = json.loads((root / "artifacts/align/run.json").read_text())["mlflow_run_id"]
    registered = register(root, stage_run)
    Registry(Checkout(root)).set_alias("mm-policy", CHAMPION, registered.number)
    client, _ = store.connect(Checkout(root))
    assert client.get_run(stage_run).data.tags["mlflow.parentRunId"] == parent
    return registered


def of(root: Path, version: Version) -> dict[str, Any]:
    return lineage_of(Registry(Checkout(root)), Checkout(root), version.name, version.number)


def test_lineage_is_complete(root: Path, version: Version) -> None:
    lineage = of(root, version)

    assert lineage["version"] == {
        "name": "mm-policy",
        "number": 1,
        "aliases": ["champion"],
        "digest": version.digest,
        "weights": "reference",
        "made_whole_from": None,
    }
    assert lineage["promotion"] == {"verdict": "promoted", "reasons": REASONS, "by": "a run", "because": REASONS[0]}
    assert (lineage["run"]["name"], lineage["run"]["status"], lineage["run"]["found"]) == ("mmalign run", "FINISHED", True)
    assert list(lineage["stages"]) == ["reward", "align"]
    assert lineage["stages"]["align"]["run_id"] == version.run_id
    assert lineage["git"]["sha"] == git(root, "rev-parse", "HEAD")
    assert lineage["git"]["dirty"] is True
    assert lineage["git"]["diff"]["whole"] is True
    assert lineage["files"]["params.yaml"] == (root / "params.yaml").read_text()
    assert lineage["files"]["dvc.lock"] == (root / "dvc.lock").read_text()
    assert lineage["files"]["data.dvc"] == (root / "data.dvc").read_text()
    assert lineage["dvc"]["data"] in lineage["files"]["data.dvc"]
    assert lineage["dvc"]["model"] == version.tags["dvc.model"]
    assert lineage["dvc"]["reward_model"] in lineage["files"]["dvc.lock"]
    assert lineage["reward_model"]["version"] == 1
    assert json.loads(json.dumps(lineage)) == lineage


def test_lineage_has_files_of_run_not_of_checkout(root: Path, version: Version) -> None:
    then = (root / "params.yaml").read_text()
    git(root, "checkout", "-q", "params.yaml")

    assert of(root, version)["files"]["params.yaml"] == then != (root / "params.yaml").read_text()


def test_available_inputs_are_distinguished(root: Path, version: Version) -> None:
    available = of(root, version)["available"]

    assert available["git"]["found"]
    assert available["run"]["found"]
    assert available["data"] == {"found": True, "cached": True, "remotes": [], "unreachable": {}}
    assert available["model"]["found"]
    assert not available["registry"]["found"]


def test_lost_inputs_are_named(root: Path, version: Version, tmp_path: Path) -> None:
    shutil.move(root / ".dvc/cache", tmp_path / "remote")
    Registry(Checkout(root)).tag("mm-policy", 1, {"mmalign.git_sha": "0" * 40})
    lost = of(root, version)
    (root / ".dvc/config").write_text(f"['remote \"team\"']\n    url = {tmp_path}/remote\n")
    elsewhere = of(root, version)

    assert [lost["available"][name]["found"] for name in ("git", "data", "model")] == [False, False, False]
    assert any("neither cache nor remotes have" in command for command in lost["rebuild"])
    assert any(command.startswith("git fetch") for command in lost["rebuild"])
    assert elsewhere["available"]["data"] == {"found": True, "cached": False, "remotes": ["team"], "unreachable": {}}
    assert "dvc pull -r team data.dvc" in elsewhere["rebuild"]


def test_version_of_deleted_run_has_no_run(root: Path) -> None:
    run_id = run_pipeline(root)
    version = register(root, run_id)
    client, _ = store.connect(Checkout(root))
    lineage = of(root, version)
    assert lineage["run"]["found"]
    with client._tracking_client.store.ManagedSessionMaker(read_only=False) as session:
        from sqlalchemy import text

        session.execute(text("pragma foreign_keys = off"))
        session.execute(text("update runs set run_uuid = 'moved' where run_uuid = :id"), {"id": run_id})

    lineage = of(root, version)

    assert lineage["run"] == {"id": run_id, "found": False, "name": None, "started": None, "status": None}
    assert lineage["stages"] == {}
    assert lineage["git"]["sha"] == git(root, "rev-parse", "HEAD")


def test_version_without_run_has_lineage_of_tags(root: Path) -> None:
    lineage = of(root, register(root, None))

    assert (lineage["run"]["id"], lineage["stages"]) == (None, {})
    assert lineage["dvc"]["data"] is not None
    assert lineage["rebuild"][-1] == "mmalign run"
    assert not any("--files" in command for command in lineage["rebuild"])


def test_stages_of_bare_repro_come_from_parent(root: Path) -> None:
    parent = open_parent(Checkout(root), "stage")
    child = Recorder.create(Checkout(root), "align", parent=parent, tags={"mmalign.stage": "align", **base_tags(Checkout(root))})
    child.end("FINISHED")

    lineage = of(root, register(root, child.run_id))

    assert lineage["run"]["id"] == parent
    assert {name: stage["run_id"] for name, stage in lineage["stages"].items()} == {"align": child.run_id}


def test_rebuild_commands_restore_code_settings_and_data(root: Path, version: Version, tmp_path: Path) -> None:
    """Runs them in a later checkout: other settings, other data, and an uncommitted change."""
    sha, settings = git(root, "rev-parse", "HEAD"), (root / "params.yaml").read_text()
    git(root, "checkout", "-q", "params.yaml")
    (root / "note with space.py").unlink()
    (root / "data/rows.jsonl").write_text("second\n")
    add_data(root)
    (root / "later.txt").write_text("committed later\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "moved on")
    (root / "requirements.txt").write_text("my own change\n")

    completed = subprocess.run(
        ["bash", "-e"],
        input="\n".join(of(root, version)["rebuild"]),
        cwd=tmp_path,
        env=with_command(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert completed.returncode == 0, completed.stderr
    assert (root / "ran").read_text().strip() == "run"
    assert git(root, "rev-parse", "HEAD") == sha
    assert (root / "params.yaml").read_text() == settings
    assert (root / "data/rows.jsonl").read_text() == "first\n"
    assert (root / "note with space.py").read_text() == "new\n"
    assert not (root / "later.txt").exists()
    assert (root / "requirements.txt").read_text() == "torch==1\n"
    (root / "ran").unlink()
    assert "my own change" in git(root, "stash", "show", "-p")


def with_command(folder: Path) -> dict[str, str]:
    """An environment whose `mmalign` has `lineage`, and a `run` that only records its call."""
    script = (
        f"#!{sys.executable}\nimport sys, typer\nfrom components.cli.registry.lineage import lineage\n"
        "if sys.argv[1] == 'run':\n    open('ran', 'w').write('run')\n"
        "else:\n    del sys.argv[1]\n    typer.run(lineage)\n"
    )
    (folder / "bin").mkdir()
    (folder / "bin/mmalign").write_text(script)
    (folder / "bin/mmalign").chmod(0o755)
    who = {f"GIT_{role}_{key}": "a@b" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **who, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[2])}


def test_diff_is_applied_without_binary_files(root: Path, version: Version) -> None:
    diff = "diff --git a/x.png b/x.png\nBinary files /dev/null and b/a b.png differ\n"

    commands = rebuild_commands(Checkout(root), of(root, version), diff)

    assert any(command.startswith("git apply --exclude='a b.png' .mmalign/lineage/mm-policy-1/git.diff") for command in commands)


def test_cut_diff_is_not_applied(root: Path, version: Version) -> None:
    commands = rebuild_commands(Checkout(root), of(root, version), "diff\n[cut]\n")

    assert not any(command.startswith("git apply") for command in commands)
    assert any(command.startswith("# the run's uncommitted changes were too long") for command in commands)


def command(root: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """The command as a person calls it, in a checkout."""
    for name in ("SHELL", "PATH", "TORCH_EXTENSIONS_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # the command sets them: given back afterwards
    monkeypatch.chdir(root)
    app = typer.Typer()
    app.command()(lineage_command)
    return CliRunner().invoke(app, list(arguments))


def test_lineage_command_prints_text_and_json(root: Path, version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = command(root, monkeypatch, "mm-policy@champion").output
    as_json = json.loads(command(root, monkeypatch, "mm-policy/1", "--json").output)

    for words in (
        "mm-policy/1  (champion)",
        version.digest,
        *REASONS,
        "a run: conversation",
        "mmalign run",
        "mm-reward/1",
        "in DVC's cache",
    ):
        assert words in printed
    for line in as_json["rebuild"]:
        assert line in printed
    assert as_json == json.loads(json.dumps(of(root, version)))


def test_lineage_command_writes_files_of_run(root: Path, version: Version, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = (root / "params.yaml").read_text()

    result = command(root, monkeypatch, str(version), "--files", str(tmp_path / "there"))

    assert "params.yaml" in result.output
    assert (tmp_path / "there/params.yaml").read_text() == settings
    assert "beta: 0.2" in (tmp_path / "there/git.diff").read_text()


def test_unknown_alias_is_user_error(root: Path, version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    result = command(root, monkeypatch, "mm-policy@previous_champion")

    assert isinstance(result.exception, UserError)
    assert str(result.exception) == f"mm-policy has no alias 'previous_champion'; there is {version.number} (champion)"
