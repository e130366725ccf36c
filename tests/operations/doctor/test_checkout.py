from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.operations.doctor import checkout as of_checkout
from tests.checkout import git
from tests.operations.doctor.whole_checkout import only_tools, settings_changed


def test_git_without_commit_author_or_clean_tree_is_reported(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    finding = of_checkout.git(Checkout(checkout))
    assert finding.state == "warning"
    assert "user.name and user.email not set" in finding.text
    git(checkout, "config", "user.name", "Somebody")
    git(checkout, "config", "user.email", "somebody@example.org")
    assert of_checkout.git(Checkout(checkout)).state == "ok"
    (checkout / "ops.yaml").write_text((checkout / "ops.yaml").read_text() + "# changed\n")
    assert of_checkout.git(Checkout(checkout)).state == "ok", "no result depends on it"
    (checkout / "params.yaml").write_text((checkout / "params.yaml").read_text() + "# changed\n")
    assert "1 changed file (params.yaml)" in of_checkout.git(Checkout(checkout)).text
    shutil.rmtree(checkout / ".git")
    assert of_checkout.git(Checkout(checkout)).state == "problem"
    git(checkout, "init", "-q")
    assert "no commit" in of_checkout.git(Checkout(checkout)).text
    only_tools(tmp_path / "nothing", monkeypatch)
    assert of_checkout.git(Checkout(checkout)).text == "git is not on PATH"


def test_invalid_settings_problem_names_key(checkout: Path) -> None:
    assert of_checkout.settings(Checkout(checkout)).state == "ok"
    settings_changed(checkout, "alignment", bta=0.2)
    finding = of_checkout.settings(Checkout(checkout))
    assert finding.state == "problem"
    assert finding.text == "params.yaml: unknown key 'alignment.bta'; did you mean 'alignment.beta'?"


def test_syncable_data_is_warning_and_refused_data_is_problem(checkout: Path) -> None:
    assert of_checkout.data(Checkout(checkout)).state == "ok"
    rows, ground_truth = checkout / "data/preferences/data.jsonl", checkout / "data/truth/truth.jsonl"
    text = rows.read_text()
    rows.write_text("other\n")
    assert "1 file changed or new" in of_checkout.data(Checkout(checkout)).text
    ground_truth.unlink()
    finding = of_checkout.data(Checkout(checkout))
    assert finding.state == "problem"
    assert "--accept-data" in str(finding.cure)
    rows.write_text(text)
    finding = of_checkout.data(Checkout(checkout))
    assert finding.state == "problem"  # somebody removed it: this checkout had it
    assert "dvc checkout data.dvc" in str(finding.cure)
    Checkout(checkout).whole_data.unlink()
    finding = of_checkout.data(Checkout(checkout))
    assert finding.state == "warning"
    assert "data/truth/truth.jsonl" in finding.text
    (checkout / "data.dvc").unlink()
    assert "no version yet" in of_checkout.data(Checkout(checkout)).text
    shutil.rmtree(checkout / "data")
    assert of_checkout.data(Checkout(checkout)).state == "problem"


def test_lost_remote_is_problem_but_unset_bucket_is_ok(checkout: Path) -> None:
    finding = of_checkout.dvc(Checkout(checkout))
    assert finding.state == "ok"
    assert "no bucket set yet" in finding.text
    shutil.move(checkout / "infra", checkout / "moved")
    finding = of_checkout.dvc(Checkout(checkout))
    assert finding.state == "problem"
    assert "the remote 'bundled', which data.dvc names" in finding.text
    shutil.rmtree(checkout / ".dvc")
    assert of_checkout.dvc(Checkout(checkout)).state == "problem"


def test_cache_with_hard_links_is_warning(checkout: Path) -> None:
    (checkout / ".dvc/config.local").write_text("[cache]\n    type = hardlink,copy\n")
    assert of_checkout.dvc(Checkout(checkout)).state == "warning"
