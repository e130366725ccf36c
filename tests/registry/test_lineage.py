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
    parent = open_parent(root, "mmalign run")
    stages = {}
    for stage, path in FOLDERS.items():
        recorder = Recorder.create(root, stage, parent=parent, tags={"mmalign.stage": stage, **base_tags(root)})
        digest = Registry(root).register("mm-reward", root / path, whole=False, run_id=None, tags={}).digest if stage == "reward" else "d"
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
    record_stages(root, parent, stages)
    close_parent(root, parent, "FINISHED")
    return parent


def register(root: Path, run_id: str | None) -> Version:
    tags = {
        "mmalign.verdict": "promoted",
        "mmalign.reasons": json.dumps(REASONS),
        "mmalign.promoted_by": "a run",
        "mmalign.promoted_because": REASONS[0],
    }
    return Registry(root).register("mm-policy", root / FOLDERS["align"], whole=False, run_id=run_id, tags=tags)


@pytest.fixture
def version(root: Path) -> Version:
    """A version of a run whose settings were changed and never committed."""
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("beta: 0.1 ", "beta: 0.2 "))
    (root / "note with space.txt").write_text("new\n")
    parent = run_pipeline(root)
    stage_run = json.loads((root / "artifacts/align/run.json").read_text())["mlflow_run_id"]
    registered = register(root, stage_run)
    Registry(root).set_alias("mm-policy", CHAMPION, registered.number)
    client, _ = store.connect(root)
    assert client.get_run(stage_run).data.tags["mlflow.parentRunId"] == parent
    return registered


def of(root: Path, version: Version) -> dict[str, Any]:
    return lineage_of(Registry(root), root, version.name, version.number)


def test_the_way_back_is_whole(root: Path, version: Version) -> None:
    found = of(root, version)

    assert found["version"] == {
        "name": "mm-policy",
        "number": 1,
        "aliases": ["champion"],
        "digest": version.digest,
        "weights": "reference",
        "made_whole_from": None,
    }
    assert found["promotion"] == {"verdict": "promoted", "reasons": REASONS, "by": "a run", "because": REASONS[0]}
    assert (found["run"]["name"], found["run"]["status"], found["run"]["found"]) == ("mmalign run", "FINISHED", True)
    assert list(found["stages"]) == ["reward", "align"]
    assert found["stages"]["align"]["run_id"] == version.run_id
    assert found["git"]["sha"] == git(root, "rev-parse", "HEAD")
    assert found["git"]["dirty"] is True
    assert found["git"]["diff"]["whole"] is True
    assert found["files"]["params.yaml"] == (root / "params.yaml").read_text()
    assert found["files"]["dvc.lock"] == (root / "dvc.lock").read_text()
    assert found["files"]["data.dvc"] == (root / "data.dvc").read_text()
    assert found["dvc"]["data"] in found["files"]["data.dvc"]
    assert found["dvc"]["model"] == version.tags["dvc.model"]
    assert found["dvc"]["reward_model"] in found["files"]["dvc.lock"]
    assert found["reward_model"]["version"] == 1
    assert json.loads(json.dumps(found)) == found


def test_a_run_s_files_are_those_of_the_run_and_not_of_the_checkout(root: Path, version: Version) -> None:
    then = (root / "params.yaml").read_text()
    git(root, "checkout", "-q", "params.yaml")

    assert of(root, version)["files"]["params.yaml"] == then != (root / "params.yaml").read_text()


def test_what_can_still_be_had_is_told_apart(root: Path, version: Version) -> None:
    available = of(root, version)["available"]

    assert available["git"]["found"]
    assert available["run"]["found"]
    assert available["data"] == {"found": True, "cached": True, "remotes": [], "unreachable": {}}
    assert available["model"]["found"]
    assert not available["registry"]["found"]


def test_what_is_lost_is_said(root: Path, version: Version, tmp_path: Path) -> None:
    shutil.move(root / ".dvc/cache", tmp_path / "remote")
    Registry(root).tag("mm-policy", 1, {"mmalign.git_sha": "0" * 40})
    lost = of(root, version)
    (root / ".dvc/config").write_text(f"['remote \"team\"']\n    url = {tmp_path}/remote\n")
    elsewhere = of(root, version)

    assert [lost["available"][name]["found"] for name in ("git", "data", "model")] == [False, False, False]
    assert any("found nowhere" in command for command in lost["rebuild"])
    assert any(command.startswith("git fetch") for command in lost["rebuild"])
    assert elsewhere["available"]["data"] == {"found": True, "cached": False, "remotes": ["team"], "unreachable": {}}
    assert "dvc pull -r team data.dvc" in elsewhere["rebuild"]


def test_a_version_whose_run_is_gone_says_so(root: Path) -> None:
    run_id = run_pipeline(root)
    version = register(root, run_id)
    client, _ = store.connect(root)
    found = of(root, version)
    assert found["run"]["found"]
    with client._tracking_client.store.ManagedSessionMaker(read_only=False) as session:
        from sqlalchemy import text

        session.execute(text("pragma foreign_keys = off"))
        session.execute(text("update runs set run_uuid = 'moved' where run_uuid = :id"), {"id": run_id})

    found = of(root, version)

    assert found["run"] == {"id": run_id, "found": False, "name": None, "started": None, "status": None}
    assert found["stages"] == {}
    assert found["git"]["sha"] == git(root, "rev-parse", "HEAD")


def test_a_version_without_a_run_has_what_its_tags_say(root: Path) -> None:
    found = of(root, register(root, None))

    assert (found["run"]["id"], found["stages"]) == (None, {})
    assert found["dvc"]["data"] is not None
    assert found["rebuild"][-1] == "mmalign run"
    assert not any("--files" in command for command in found["rebuild"])


def test_stages_of_a_bare_repro_are_found_by_their_parent(root: Path) -> None:
    parent = open_parent(root, "stage")
    child = Recorder.create(root, "align", parent=parent, tags={"mmalign.stage": "align", **base_tags(root)})
    child.end("FINISHED")

    found = of(root, register(root, child.run_id))

    assert found["run"]["id"] == parent
    assert {name: stage["run_id"] for name, stage in found["stages"].items()} == {"align": child.run_id}


def test_the_commands_bring_code_settings_and_data_back(root: Path, version: Version, tmp_path: Path) -> None:
    """Runs them in a checkout that has moved on: other settings, other data, and a change of somebody's own."""
    sha, settings = git(root, "rev-parse", "HEAD"), (root / "params.yaml").read_text()
    git(root, "checkout", "-q", "params.yaml")
    (root / "note with space.txt").unlink()
    (root / "data/rows.jsonl").write_text("second\n")
    add_data(root)
    (root / "later.txt").write_text("committed later\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "moved on")
    (root / "requirements.txt").write_text("my own change\n")

    done = subprocess.run(
        ["bash", "-e"],
        input="\n".join(of(root, version)["rebuild"]),
        cwd=tmp_path,
        env=with_command(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert (root / "ran").read_text().strip() == "run"
    assert git(root, "rev-parse", "HEAD") == sha
    assert (root / "params.yaml").read_text() == settings
    assert (root / "data/rows.jsonl").read_text() == "first\n"
    assert (root / "note with space.txt").read_text() == "new\n"
    assert not (root / "later.txt").exists()
    assert (root / "requirements.txt").read_text() == "torch==1\n"
    (root / "ran").unlink()
    assert "my own change" in git(root, "stash", "show", "-p")


def with_command(folder: Path) -> dict[str, str]:
    """An environment whose `mmalign` knows `lineage`, and a `run` that only says that it was called."""
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


def test_a_diff_with_binary_files_is_applied_without_them(root: Path, version: Version) -> None:
    diff = "diff --git a/x.png b/x.png\nBinary files /dev/null and b/a b.png differ\n"

    commands = rebuild_commands(root, of(root, version), diff)

    assert any(command.startswith("git apply --exclude='a b.png' .mmalign/lineage/mm-policy-1/git.diff") for command in commands)


def test_a_diff_that_was_cut_is_not_applied(root: Path, version: Version) -> None:
    commands = rebuild_commands(root, of(root, version), "diff\n[cut]\n")

    assert not any(command.startswith("git apply") for command in commands)
    assert any(command.startswith("# the uncommitted changes of the run were too long") for command in commands)


def command(root: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """The command as a person calls it, in a checkout."""
    for name in ("SHELL", "PATH", "TORCH_EXTENSIONS_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # the command sets them: given back afterwards
    monkeypatch.chdir(root)
    app = typer.Typer()
    app.command()(lineage_command)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_prints_and_gives_json(root: Path, version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = command(root, monkeypatch, "mm-policy@champion").output
    given = json.loads(command(root, monkeypatch, "mm-policy/1", "--json").output)

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
    for line in given["rebuild"]:
        assert line in printed
    assert given == json.loads(json.dumps(of(root, version)))


def test_the_command_writes_the_files_of_the_run(root: Path, version: Version, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = (root / "params.yaml").read_text()

    result = command(root, monkeypatch, str(version), "--files", str(tmp_path / "there"))

    assert "params.yaml" in result.output
    assert (tmp_path / "there/params.yaml").read_text() == settings
    assert "beta: 0.2" in (tmp_path / "there/git.diff").read_text()


def test_a_name_that_is_not_there_is_a_mistake(root: Path, version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    result = command(root, monkeypatch, "mm-policy@previous_champion")

    assert isinstance(result.exception, UserError)
    assert str(result.exception) == f"mm-policy has no alias 'previous_champion'; there is {version.number} (champion)"
