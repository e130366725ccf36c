"""A nightly run on a slice of the bundled rows, then a person's run and bare DVC, and the files of all three."""

from __future__ import annotations

import io
import json
import math
import pickletools
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow.parquet as pq
import pytest
import yaml

from benchmarks._slice import HELDOUT_ROWS, SMALL, read_rows, write_rows
from components.checkout import Checkout
from components.operations.services.postgres import DATABASES
from components.operations.services.state import client_environment, database_url, read_addresses
from components.processes.secrets import read_secrets, state_folder
from flows.flow_runs import deployments
from tests.checkout import ROOT
from tests.prefect_rest import ask
from tests.recipe.conftest import CANARIES, TRAIN_ROWS, Recipe, copy_of, make_recipe, write_canary_rows

STAGES = {"validate", "reward", "critique", "reference", "align", "evaluate"}


def test_run_makes_every_metric_and_next_run_skips_all(recipe: Recipe) -> None:
    first = recipe.first()
    assert first["status"] == "ok"
    assert {stage["status"] for stage in first["stages"].values()} == {"ran"}
    assert set(first["stages"]) == STAGES
    assert first["data"]["queries"] == TRAIN_ROWS
    assert first["data"]["heldout_queries"] == HELDOUT_ROWS
    counted = {"reward": first["reward"], **{name: first["policy"][name] for name in ("base", "aligned")}, "beta": first["beta"]}
    ends = ("_low", "_high")  # of so few groups some have no interval
    assert not [
        f"{part}.{key}" for part, metrics in counted.items() for key, value in metrics.items() if value is None and not key.endswith(ends)
    ]
    printed = (recipe.root.parent / "first.txt").read_text()
    assert "right answers, long and short" in printed
    assert "unsafe answers to harmful requests" in printed

    # So few held-out queries are too few for the safety rule: refused, and registered by reference as the challenger.
    gate = first["gate"]["mm-policy"]
    assert gate["verdict"] == "refused"
    assert any("too few held-out rows to judge" in reason and "mm-policy.unsafe (" in reason for reason in gate["reasons"])
    assert first["gate"]["promoted"] is False
    assert first["registry"]["mm-policy"]["aliases"] == ["challenger"]

    completed = recipe.mmalign("run")
    assert completed.returncode == 0, completed.stderr
    second = recipe.summary()
    assert {stage["status"] for stage in second["stages"].values()} == {"skipped"}
    assert {name: stage["mlflow_run_id"] for name, stage in second["stages"].items()} == {
        name: stage["mlflow_run_id"] for name, stage in first["stages"].items()
    }
    same = {"policy", "reward", "beta", "data"}
    assert {key: second[key] for key in same} == {key: first[key] for key in same}
    assert second["gate"]["mm-policy"]["verdict"] == "nothing_new"
    assert second["registry"]["mm-policy"] == first["registry"]["mm-policy"]
    assert recipe.refused() == ""


def test_beta_of_each_pair_equals_hand_calculation(recipe: Recipe) -> None:
    settings = yaml.safe_load((recipe.root / "params.yaml").read_text())["alignment"]
    scores = {
        (row["id"], row["response"]): row["score"] for row in pq.read_table(recipe.root / "artifacts/critique/train.parquet").to_pylist()
    }
    pairs = pq.read_table(recipe.root / "artifacts/align/pairs.parquet").to_pylist()
    margins = [scores[row["id"], row["winner"]] - scores[row["id"], row["loser"]] for row in pairs]
    mean = math.fsum(margins) / len(margins)
    deviation = math.sqrt(math.fsum((margin - mean) ** 2 for margin in margins) / len(margins))
    for row, margin in zip(pairs, margins, strict=True):
        scaled = margin / deviation
        assert row["margin"] == pytest.approx(scaled, rel=1e-3, abs=1e-5)
        strength = 1 - math.exp(-settings["beta_scale"] * max(scaled, 0.0))
        assert row["beta"] == pytest.approx(settings["beta"] * (1 + settings["beta_weight"] * strength), rel=1e-4)


def test_bare_repro_after_run_skips_all(recipe: Recipe) -> None:
    subprocess.run([sys.executable, "-m", "compileall", "-q", "components", "flows"], cwd=recipe.root, check=True)
    assert list(recipe.root.glob("components/**/__pycache__/*.pyc"))
    (recipe.root / "components/engine/.ruff_cache").mkdir(exist_ok=True)
    (recipe.root / "components/engine/.ruff_cache/x").write_text("left by a tool")
    assert json.loads(recipe.dvc("status", "--json")).keys() == {"code"}  # which always runs
    output = recipe.dvc("repro")
    assert [name for name in STAGES if f"Stage '{name}' didn't change, skipping" not in output] == []


def test_nightly_run_is_recorded_and_shown(recipe: Recipe) -> None:
    from mlflow import MlflowClient

    tags = {"prefect.flow_run", "dvc.data", "git.sha"}
    (outer,) = flow_runs(recipe, "nightly")
    assert outer["state_type"] == "COMPLETED"
    assert "mm-policy refused" in outer["state"]["message"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in client_environment(Checkout(recipe.root)).items():
            patch.setenv(name, value)
        run = MlflowClient(client_environment(Checkout(recipe.root))["MLFLOW_TRACKING_URI"]).get_run(recipe.first()["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert tags <= set(run.data.tags)
    assert run.data.tags["prefect.flow_run"] == outer["id"]
    shown = ask(Checkout(recipe.root), "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [outer["id"]]}}})
    assert {artifact["type"] for artifact in shown} >= {"table", "markdown", "progress"}
    assert any("refused" in str(artifact["data"]) for artifact in shown)
    notices = [json.loads(line) for line in (recipe.root / "logs/notices.jsonl").read_text().splitlines()]
    assert [(notice["kind"], notice["facts"]["model"]) for notice in notices if notice["facts"].get("model") == "mm-policy"] == [
        ("refused", "mm-policy")
    ]


def flow_runs(recipe: Recipe, deployment: str) -> list[dict[str, Any]]:
    body = {
        "flow_runs": {
            "deployment_id": {"any_": [deployments(Checkout(recipe.root))[deployment]]},
            "state": {"type": {"not_any_": ["SCHEDULED"]}},
        }
    }
    return list(ask(Checkout(recipe.root), "flow_runs/filter", body))


def test_secrets_are_in_no_log_record_or_notice(recipe: Recipe) -> None:
    addresses, secrets = read_addresses(Checkout(recipe.root)), read_secrets(Checkout(recipe.root))
    assert addresses is not None
    folders = [recipe.root / name for name in ("logs", "mlruns", "reports", ".mmalign")]
    secrets_file = state_folder(Checkout(recipe.root)) / "secrets.json"
    # The data, and the tables computed row by row, may name the data's files.
    rows = (".mmalign/cache", ".mmalign/scratch", "services/postgres")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path != secrets_file]
    files = [path for path in files if not any(part in str(path) for part in rows)]
    assert len(files) > 50
    assert not [(path, name) for path in files for name, canary in CANARIES.items() if canary.encode() in path.read_bytes()]
    passwords = [value for name, value in asdict(secrets).items() if name != "mlflow_user"]
    logs = [path for path in files if path.suffix in {".log", ".out", ".jsonl", ".html", ".json"}]
    assert not [path for path in logs if any(password in path.read_text(errors="replace") for password in passwords)]
    counted = 0
    for database in DATABASES:
        with psycopg2.connect(database_url(addresses, secrets, database, "postgresql")) as connection, connection.cursor() as cursor:
            cursor.execute("select table_name from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE'")
            for (table,) in cursor.fetchall():
                dump = io.StringIO()
                cursor.copy_expert(f'copy "{table}" to stdout', dump)
                counted += len(dump.getvalue())
                assert not [canary for canary in (*CANARIES.values(), *passwords) if canary in dump.getvalue()], table
    assert counted > 100_000


def test_outputs_contain_no_pickle_or_code(recipe: Recipe) -> None:
    folders = [recipe.root / name for name in ("data", "artifacts", "mlruns", "reports")]
    files = [path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 100
    assert not [path for path in files if is_pickle(path)]
    # A promoted model's package holds the pipeline's own modules, and MLflow loads the model from one of them.
    files = [path for path in files if not (path.suffix == ".py" and "models" in path.parts and "mlruns" in path.parts)]
    assert not [
        path for path in files if path.suffix in {".py", ".pyc", ".so", ".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib"}
    ]
    named = [path for path in files if path.suffix == ".json" and path.parent.name in {"base", "model"}]
    assert named
    assert not [path for path in named if "auto_map" in path.read_text() or "trust_remote_code" in path.read_text()]
    code = [path for folder in ("components", "flows") for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in code if "trust_remote_code=True" in path.read_text()]


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, or a zip archive with one."""
    if zipfile.is_zipfile(path):
        return any(name.endswith(".pkl") for name in zipfile.ZipFile(path).namelist())
    head = path.read_bytes()[:2]
    if head[:1] != b"\x80":  # protocol 2 and later begin so; what torch and numpy write is one of these
        return False
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(path.read_bytes()))
    except ValueError:
        return False


@pytest.mark.slow
def test_second_run_from_scratch_has_same_hashes(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    made = make_recipe(tmp_path, base, write_canary_rows, SMALL)
    made.dvc("add", "data")
    made.dvc("repro")
    assert made.locked_outs() == recipe.locked_outs()


@pytest.mark.slow
def test_edited_heldout_row_trains_nothing(recipe: Recipe, tmp_path: Path) -> None:
    edited = copy_of(recipe, tmp_path / "checkout")
    root = edited.root
    for name, edit in {"preferences/heldout.jsonl": edit_row, "truth/truth.jsonl": edit_label}.items():
        rows = read_rows(root / "data" / name)
        edit(rows)
        write_rows(root / "data" / name, rows)
    completed = edited.mmalign("run")
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    statuses = {name: stage["status"] for name, stage in edited.summary()["stages"].items()}
    assert statuses == {
        "validate": "ran", "reward": "skipped", "critique": "ran", "reference": "ran", "align": "skipped", "evaluate": "ran"
    }  # fmt: skip


def edit_row(rows: list[dict[str, object]]) -> None:
    rows[0]["models_output"][0] += " I think."  # type: ignore[index]


def edit_label(rows: list[dict[str, object]]) -> None:
    rows[0]["must_not"].append("turquoise")  # type: ignore[attr-defined]
