"""Copies of a checkout for runs with overrides: what they have, what they share, and that the checkout stays as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.checkout import Checkout
from components.errors import UserError
from components.processes.guard import run_lock
from components.storage.clones import deployed_checkout
from components.storage.copies import commit_data, fill_copy, workspace_of
from components.storage.data_version import data_state
from tests.checkout import git

BETA = "alignment.beta=0.2"
STEPS = "alignment.max_steps=2"


def filled(checkout: Path, *overrides: str) -> Path:
    own = Checkout(checkout)
    copy = workspace_of(own, overrides)
    lines: list[str] = []
    commit_data(own, accept=False, log=lines.append)
    fill_copy(own, copy, overrides, lines.append)
    assert str(copy.root) in lines[-1]
    return copy.root


def test_settings_that_are_so_already_need_no_copy(checkout: Path) -> None:
    own = Checkout(checkout)
    assert workspace_of(own, []) == own
    assert workspace_of(own, [f"alignment.beta={own.settings().alignment.beta}"]) == own


def test_copy_is_named_by_settings_in_any_order(checkout: Path) -> None:
    own = Checkout(checkout)
    copy = workspace_of(own, [BETA, STEPS])
    assert copy == workspace_of(own, [STEPS, "alignment.beta=.2"])
    assert copy.root.name.startswith("set-alignment.beta=0.2_alignment.max_steps=2-")
    assert copy != workspace_of(own, [BETA])
    with pytest.raises(UserError, match=r"did you mean 'alignment\.beta'"):
        workspace_of(own, ["alignment.bta=1"])


def test_override_of_the_machine_holds_for_its_copy_alone(checkout: Path) -> None:
    mine = (checkout / "ops.yaml").read_text()
    copy = filled(checkout, "stages.align.gpus=1")
    assert Checkout(copy).settings().stages["align"].gpus == 1
    assert (copy / "params.yaml").read_text() == (checkout / "params.yaml").read_text()
    assert (checkout / "ops.yaml").read_text() == mine
    assert workspace_of(Checkout(checkout), ["stages.align.gpus=0"]).root == checkout


def test_copy_has_files_as_they_are_and_overrides(checkout: Path) -> None:
    edited = (checkout / "params.yaml").read_text().replace("seed: 7", "seed: 8", 1) + "# an edit\n"
    (checkout / "params.yaml").write_text(edited)
    (checkout / "new.txt").write_text("untracked")
    (checkout / "data-link").symlink_to("data")
    foreign = os.fsdecode(b"caf\xe9.txt")
    (checkout / foreign).write_text("no UTF-8")
    copy = filled(checkout, BETA)
    assert yaml.safe_load((copy / "params.yaml").read_text())["alignment"]["beta"] == 0.2
    assert (copy / "params.yaml").read_text().endswith("# an edit\n")
    assert (copy / "new.txt").read_text() == "untracked"
    assert (copy / "data-link").readlink() == Path("data")
    assert (copy / foreign).read_text() == "no UTF-8"
    (copy / foreign).unlink()
    assert (checkout / "params.yaml").read_text() == edited
    assert git(copy, "rev-parse", "HEAD") == git(checkout, "rev-parse", "HEAD")
    changed = {line.split()[-1] for line in git(copy, "status", "--porcelain").splitlines()}
    assert changed == {"params.yaml", "new.txt", "data-link"}
    assert deployed_checkout(Checkout(copy)).root == checkout


def test_data_are_linked_and_nothing_large_is_copied(checkout: Path) -> None:
    large = checkout / "data/preferences/large.bin"
    large.write_bytes(bytes(range(256)) * 4096)
    copy = filled(checkout, BETA)
    linked = copy / large.relative_to(checkout)
    assert linked.read_bytes() == large.read_bytes()
    assert linked.stat().st_nlink > 1 or linked.is_symlink()  # or a reflink, which no count shows
    assert not data_state(Checkout(copy)).differs
    assert not data_state(Checkout(checkout)).differs
    assert (copy / "infra/bundled-data").is_symlink()


@pytest.mark.parametrize("scope", ["--project", "--local"])
def test_cache_that_settings_of_dvc_name_is_the_copys_too(checkout: Path, scope: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "cache", "dir", scope, "elsewhere"], cwd=checkout, check=True, capture_output=True)
    (checkout / ".dvc/cache").rename(checkout / "elsewhere")
    (checkout / ".git/info/exclude").write_text("/elsewhere\n")
    copy = filled(checkout, BETA)
    assert (copy / "data/preferences/data.jsonl").read_text() == (checkout / "data/preferences/data.jsonl").read_text()
    assert f"dir = {checkout / 'elsewhere'}" in (copy / ".dvc/config.local").read_text()


def test_caches_are_shared_and_checkpoints_are_not(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copy = Checkout(filled(checkout, BETA))
    own = Checkout(checkout)
    for path in ("caches", "torch_extensions", "machine", "mlruns", "mlflow_database"):
        assert getattr(copy, path).resolve() == getattr(own, path).resolve(), path
    assert copy.scratch().resolve() != own.scratch().resolve()


def test_base_outside_data_is_linked(checkout: Path) -> None:
    (checkout / ".git/info/exclude").write_text("/models\n")
    (checkout / "models/vl").mkdir(parents=True)
    (checkout / "models/vl/config.json").write_text("{}")
    copy = filled(checkout, "model.base=models/vl")
    assert (copy / "models/vl").is_symlink()
    assert (copy / "models/vl/config.json").read_text() == "{}"
    assert "models" not in git(copy, "status", "--porcelain")


def test_next_run_gets_files_of_now_and_its_own_lock(checkout: Path) -> None:
    (checkout / "gone.txt").write_text("1")
    (checkout / "edited.txt").write_text("1")
    (checkout / "dvc.lock").write_text("schema: '2.0'\n")
    copy = filled(checkout, BETA)
    assert (copy / "dvc.lock").read_text() == "schema: '2.0'\n"
    (copy / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (copy / "artifacts").mkdir()
    (checkout / "gone.txt").unlink()
    (checkout / "edited.txt").write_text("two")
    (checkout / "dvc.lock").unlink()
    assert filled(checkout, BETA) == copy
    assert not (copy / "gone.txt").exists()
    assert (copy / "edited.txt").read_text() == "two"
    assert (copy / "dvc.lock").read_text() == "schema: '2.0'\nstages: {}\n"
    assert (copy / "artifacts").is_dir()
    assert yaml.safe_load((copy / "params.yaml").read_text())["alignment"]["beta"] == 0.2


def test_copy_cut_short_is_made_again(checkout: Path) -> None:
    copy = filled(checkout, BETA)
    (copy / ".git/clone.json").unlink()
    (copy / "dvc.yaml").unlink()
    assert filled(checkout, BETA) == copy
    assert (copy / "dvc.yaml").read_text() == (checkout / "dvc.yaml").read_text()


def test_changed_data_are_committed_under_lock_of_checkout(checkout: Path) -> None:
    own = Checkout(checkout)
    with run_lock(own):  # a run beside the checkout's own needs no lock while the data stay
        filled(checkout, BETA)
        (checkout / "data/preferences/data.jsonl").write_text("1\n2\n3\n")
        with pytest.raises(UserError, match="a run is under way"):
            commit_data(own, accept=False, log=print)
    copy = filled(checkout, BETA)
    assert (copy / "data/preferences/data.jsonl").read_text() == "1\n2\n3\n"
    assert (copy / "data.dvc").read_text() == (checkout / "data.dvc").read_text()


def test_checkout_outside_git_is_refused_with_cure(checkout: Path) -> None:
    (checkout / ".git").rename(checkout / "was-git")
    own = Checkout(checkout)
    with pytest.raises(UserError, match="--save"):
        fill_copy(own, workspace_of(own, [BETA]), [BETA], print)
