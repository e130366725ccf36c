from __future__ import annotations

import subprocess
from pathlib import Path

from components.checkout import Checkout
from components.report.record import read_record
from components.report.settings import Setting, read_settings
from tests.report.conftest import git, write_summary


def change(root: Path, old: str, new: str) -> None:
    path = root / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_settings_compare_with_run_commit_and_first_commit(run: Path) -> None:
    change(run, "sft_weight: 0.25", "sft_weight: 0.5")
    git(run, "commit", "-aqm", "second")
    write_summary(run)
    change(run, "sft_weight: 0.5", "sft_weight: 1.0")
    change(run, "max_frames: 8", "max_frames: 4")
    settings = read_settings(read_record(Checkout(run)))
    assert settings is not None
    assert settings.rows == [
        Setting("alignment.sft_weight", "1", "0.5", "0.25"),
        Setting("model.max_frames", "4", "8", "8"),
    ]
    shas = git(run, "log", "--format=%H").split()
    assert (settings.committed, settings.first) == (shas[0][:10], shas[1][:10])


def test_later_commit_is_not_compared(run: Path) -> None:
    change(run, "sft_weight: 0.25", "sft_weight: 0.5")
    git(run, "commit", "-aqm", "after the run")
    settings = read_settings(read_record(Checkout(run)))
    assert settings is not None
    assert settings.rows == [Setting("alignment.sft_weight", "0.5", "0.25", None)]


def test_stage_run_with_other_value_is_named(run: Path) -> None:
    change(run, "sft_weight: 0.25", "sft_weight: 0.5")
    settings = read_settings(read_record(Checkout(run)))
    assert settings is not None
    assert settings.outdated == [("align", "alignment.sft_weight", "0.25", "0.5")]


def test_number_that_yaml_reads_as_text_is_same_value(run: Path) -> None:
    change(run, "learning_rate: 4.0e-4", "learning_rate: 4e-4")
    settings = read_settings(read_record(Checkout(run)))
    assert settings is not None
    assert settings.outdated == []


def test_added_and_removed_settings_miss_one_side(run: Path) -> None:
    change(run, "  max_frames: 8", "  max_frames_now: 8")
    settings = read_settings(read_record(Checkout(run)))
    assert settings is not None
    assert settings.rows == [
        Setting("model.max_frames", "absent", "8", None),
        Setting("model.max_frames_now", "8", "absent", None),
    ]


def test_shallow_clone_has_no_first_version(run: Path, tmp_path: Path) -> None:
    change(run, "sft_weight: 0.25", "sft_weight: 0.5")
    git(run, "commit", "-aqm", "second")
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth=1", run.as_uri(), str(shallow)], check=True)
    (shallow / "reports").mkdir()
    write_summary(shallow)
    settings = read_settings(read_record(Checkout(shallow)))
    assert settings is not None
    assert (settings.rows, settings.first) == ([], None)
    assert settings.committed is not None
