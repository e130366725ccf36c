"""What `mmalign compare` can name, and where it takes the results from, with a real registry."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.benches.record import BENCH, VERSION, record_result
from components.benches.rows import write_rows
from components.benches.sides import compare_models, find_sides
from components.checkout import Checkout
from components.errors import UserError
from components.evaluation.results import POLICY_SCHEMA, results_key
from components.families.digests import model_digest
from components.families.loading import load_model
from components.files import write_json
from components.registry.registry import Registry
from components.registry.versions import Version
from components.reward.model import new_reward_model
from components.statistics import Intervals
from components.tracking.recorder import Recorder
from components.tracking.runs import open_parent
from components.tracking.store import connect
from tests.checkout import mmalign, mmalign_here
from tests.registry.registered import MODEL, register, registry, root
from tests.tiny import save_checkpoint
from tests.tracking.conftest import checkout, empty_database, no_memory_of_failures

__all__ = ["checkout", "empty_database", "no_memory_of_failures", "registry", "root"]
INTERVALS = Intervals(0.95)


def write_heldout(path: Path, good: list[bool]) -> None:
    """Held-out results of one model, of which `good` says what is right."""
    rows: list[dict[str, Any]] = [
        {"id": f"q{n}", "category": "short", "good": value, "degenerate": False, "pairs": 2, "correct": 1, "clusters": {"wording": f"w{n}"}}
        for n, value in enumerate(good)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=POLICY_SCHEMA), path)


def evaluated(root: Path, good: list[bool]) -> None:
    """The results of the last evaluation, of the checkout's policy and of the base."""
    own = Checkout(root)
    write_json(own.results / "context.json", {"context": "today", "models": {"mm-policy": model_digest(own.policy)}})
    write_heldout(own.results / "aligned.parquet", good)
    write_heldout(own.results / "base.parquet", [False] * len(good))


def test_folder_is_compared_with_the_base(root: Path) -> None:
    evaluated(root, [True] * 30)
    names = (str(root / "data/base"), str(root / MODEL))
    result = compare_models(Checkout(root), names, "holm", INTERVALS)
    assert [(entry["benchmark"], entry["measure"], entry["gain"]) for entry in result["better"]] == [("held-out rows", "good", 1.0)]
    assert {entry["measure"] for entry in result["comparisons"]} == {"good", "degenerate", "preference_accuracy"}
    assert result["a"] == [{"name": names[0], "model": "mm-policy", "digest": model_digest(root / "data/base"), "version": None}]


def test_version_takes_its_results_from_the_registry(root: Path, registry: Registry, tmp_path: Path) -> None:
    first = register(registry)
    write_heldout(tmp_path / "first.parquet", [True] * 30)
    registry.store_results(first, results_key(first.digest, "today"), tmp_path / "first.parquet")
    save_checkpoint(root / MODEL, seed=5)
    evaluated(root, [True] * 10 + [False] * 20)
    second = register(registry)
    result = compare_models(Checkout(root), (str(first), str(second)), "holm", INTERVALS)
    assert [(entry["measure"], round(entry["gain"], 3)) for entry in result["worse"]] == [("good", -0.667)]
    assert result["b"][0]["version"] == "mm-policy/2"


def test_version_without_results_is_evaluated_on_request(root: Path, registry: Registry) -> None:
    first = register(registry)
    save_checkpoint(root / MODEL, seed=5)
    evaluated(root, [True] * 30)
    names = (str(first), str(root / MODEL))
    with pytest.raises(UserError, match=r"no benchmark has results of both mm-policy/1 and .*add --evaluate"):
        compare_models(Checkout(root), names, "holm", INTERVALS)
    evaluations: list[Version] = []

    def evaluate(version: Version, target: Path) -> None:
        evaluations.append(version)
        write_heldout(target, [False] * 30)

    for _ in range(2):
        result = compare_models(Checkout(root), names, "holm", INTERVALS, evaluate)
        assert [entry["gain"] for entry in result["better"]] == [1.0]
    assert evaluations == [first]


def test_run_names_the_model_that_it_registered(root: Path, registry: Registry) -> None:
    parent = open_parent(Checkout(root), "mmalign run")
    stage = Recorder.create(Checkout(root), "align", parent=parent, tags={})
    version = registry.register("mm-policy", root / MODEL, whole=False, run_id=stage.run_id, tags={})
    for run in (parent, stage.run_id):
        assert [(side.model, side.version) for side in find_sides(Checkout(root), run)] == [("mm-policy", version)]
    with pytest.raises(UserError, match="registered no model"):
        find_sides(Checkout(root), "0" * 32)


def test_only_models_of_one_kind_are_compared(root: Path) -> None:
    new_reward_model(load_model(root / "data/base"), 0).save(root / "artifacts/reward/model", root / "data/base")
    with pytest.raises(UserError, match=r"is mm-policy and .* is mm-reward: compare two policies or two reward models"):
        compare_models(Checkout(root), (str(root / MODEL), str(root / "artifacts/reward/model")), "holm", INTERVALS)
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_sides(Checkout(root), str(root / "data"))


def test_results_of_benchmarks_are_compared_by_their_direction(root: Path) -> None:
    own = Checkout(root)
    for folder, value in ((root / "data/base", 0.2), (root / MODEL, 0.6)):
        rows = [{"id": str(n), "category": "t", "pairs": 1, "correct": value, "clusters": {"wording": str(n)}} for n in range(40)]
        path = own.bench_results / f"chair-{model_digest(folder)[:12]}.parquet"
        write_rows(path, rows)
        write_json(path.with_suffix(".json"), {"benchmark": {"metric": "chair_s"}, "direction": "down"})
    extra = own.bench_results / f"other-{model_digest(root / MODEL)[:12]}.parquet"
    write_rows(extra, rows)
    result = compare_models(own, (str(root / "data/base"), str(root / MODEL)), "bh", INTERVALS)
    assert [(entry["benchmark"], entry["measure"], round(entry["gain"], 6)) for entry in result["worse"]] == [("chair", "chair_s", -0.4)]
    assert result["only"] == {"a": [], "b": ["other"]}

    command = ("compare", "data/base", "artifacts/align/model", "--correction", "bh")
    shown = mmalign(root, *command)
    assert "* chair chair_s" in shown.stdout, shown.stderr
    assert "0.200 -> 0.600  gain -0.400 [" in shown.stdout
    assert "only B has results on other" in shown.stdout
    assert json.loads(mmalign_here(root, *command, "--json").stdout)["worse"] == result["worse"]
    refused = mmalign_here(root, *command[:3], "--correction", "none")
    assert (refused.returncode, refused.stderr) == (2, "mmalign: --correction 'none' is none of holm, bh\n")


def test_comparison_imports_no_model_library() -> None:
    script = "import sys, components.benches.sides\nprint(sorted(set(sys.modules) & {'torch', 'transformers', 'mlflow'}))"
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_result_is_recorded_with_the_version_of_the_model(root: Path, registry: Registry, tmp_path: Path) -> None:
    version = register(registry)
    write_json(tmp_path / "result.json", {})
    record_result(
        Checkout(root), "pope_adv", ("mm-policy", version.digest), {"acc": 0.5, "of": {"x": 1, "y": None}}, [tmp_path / "result.json"]
    )
    client, experiment = connect(Checkout(root))
    (run,) = client.search_runs([experiment], f"tags.`{BENCH}` = 'pope_adv'")
    assert run.data.tags[VERSION] == "mm-policy/1"
    assert run.data.metrics == {"acc": 0.5, "of.x": 1.0}
    assert run.info.status == "FINISHED"
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["result.json"]
