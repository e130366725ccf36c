from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.tracking import store
from tests.registry.registered import registry, root
from tests.settings import copy_settings

__all__ = ["registry", "root"]

DVC_YAML = """
vars:
  - params.yaml:model
stages:
  validate:
    cmd: mmalign stage validate
    deps: [data/preferences, "${base}/config.json"]
    params: [validate, model]
    outs: [artifacts/validate/train]
    metrics: [artifacts/validate/metrics.json]
  reward:
    cmd: mmalign stage reward
    deps: [artifacts/validate/train, components/reward]
    params: [reward]
    outs: [artifacts/reward/model]
"""
DVC_LOCK = """
schema: '2.0'
stages:
  validate:
    cmd: mmalign stage validate
    deps: [{path: data/preferences, md5: d1.dir}]
    outs: [{path: artifacts/validate/train, md5: t1.dir}]
"""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables and no experiment of ours: making the tables takes seconds."""
    from mlflow import MlflowClient

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def checkout(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed checkout with settings and DVC's files, and a store of its own."""
    root = tmp_path / "checkout"
    root.mkdir()
    copy_settings(root)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "dvc.lock").write_text(DVC_LOCK)
    (root / "data.dvc").write_text("outs:\n- md5: data1.dir\n  path: data\n")
    (root / "requirements.txt").write_text("torch==1\n")
    (root / ".gitignore").write_text("/.mmalign\n/mlflow.db*\n/mlruns\n/artifacts\n")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    shutil.copyfile(empty_database, root / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return root


@pytest.fixture(autouse=True)
def no_memory_of_failures() -> Iterator[None]:
    yield
    store._failures.clear()
    store._connect.cache_clear()


def runs_of(root: Path) -> list[Any]:
    """All runs of the checkout's store, oldest first."""
    client, experiment = store.connect(Checkout(root))
    return list(client.search_runs([experiment], order_by=["attributes.start_time ASC"]))
