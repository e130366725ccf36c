"""A checkout with evaluated models, and its verdicts in a real registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.checkout import Checkout
from components.evaluation.labels import TASKS
from components.evaluation.results import POLICY_SCHEMA, REWARD_SCHEMA
from components.families.digests import model_digest
from components.families.loading import load_model
from components.files import read_json, write_json
from components.registry.promotion import GateOutcome, judge_models
from components.registry.registry import Registry
from components.registry.versions import CHALLENGER, CHAMPION, PREVIOUS
from components.reward.model import new_reward_model
from tests.registry.test_gate import PERFECT, policy_rows, reward_rows
from tests.tiny import save_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def reward_model(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "model"
    new_reward_model(load_model(tiny_base), 0).save(folder, tiny_base)
    return folder


@pytest.fixture
def evaluated(checkout: Path, tiny_base: Path, reward_model: Path) -> Path:
    """A checkout whose models are evaluated: the base is right in half of its answers, and safe."""
    (checkout / "mlflow").mkdir()
    shutil.copy(ROOT / "mlflow/registry.yaml", checkout / "mlflow/registry.yaml")
    shutil.copytree(tiny_base, checkout / "data/base")
    shutil.copytree(reward_model, checkout / "artifacts/reward/model")
    write_json(checkout / "artifacts/reward/run.json", {"mlflow_run_id": None})
    write_json(checkout / "artifacts/align/run.json", {"mlflow_run_id": None})
    results(checkout, "base.parquet", policy_rows(talk=0.5))
    pq.write_table(pa.Table.from_pylist(reward_rows(0.9), schema=REWARD_SCHEMA), Checkout(checkout).results / "reward.parquet")
    evaluate(checkout)
    return checkout


def evaluate(checkout: Path, context: str | None = None) -> None:
    """What the evaluation writes of context and models; the context of before, where none is given."""
    path = Checkout(checkout).results / "context.json"
    context = context or (read_json(path)["context"] if path.is_file() else "these queries")
    folders = {"mm-policy": Checkout(checkout).policy, "mm-reward": Checkout(checkout).reward_model}
    models = {name: model_digest(folder) for name, folder in folders.items() if folder.is_dir()}
    write_json(path, {"context": context, "models": models, "errors": {"ground_truth": dict.fromkeys(TASKS, PERFECT)}})


def results(checkout: Path, name: str, rows: list[dict[str, Any]]) -> None:
    Checkout(checkout).results.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=POLICY_SCHEMA), Checkout(checkout).results / name)


def train(checkout: Path, seed: int, **shares: float) -> None:
    """A policy of its own digest, with these shares of outcomes."""
    shutil.rmtree(checkout / "artifacts/align/model", ignore_errors=True)
    save_checkpoint(checkout / "artifacts/align/model", seed=seed)
    results(checkout, "aligned.parquet", policy_rows(**shares))  # type: ignore[arg-type]
    evaluate(checkout)


def never(name: str, *_: Path) -> None:
    raise AssertionError(f"{name} was evaluated again")


def judge(checkout: Path, reevaluate: Callable[[Any, Path, Path], None] = never) -> GateOutcome:
    return judge_models(Checkout(checkout), reevaluate, print)


def numbers(checkout: Path) -> tuple[int | None, int | None, int | None]:
    registry = Registry(Checkout(checkout))
    versions = [registry.at("mm-policy", alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)]
    return tuple(None if version is None else version.number for version in versions)  # type: ignore[return-value]
