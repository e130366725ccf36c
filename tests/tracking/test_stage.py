from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.closures import code_digest
from components.config.settings import Settings
from components.engine.recorder import Recorder
from components.engine.result import StageResult
from components.errors import StageFault, UserError
from components.files import read_json
from components.rehearsal.devices import processor
from components.stages import STAGES, StageName
from components.tracking import stage
from components.tracking.recorder import PARENT_TAG
from components.tracking.runs import close_parent, open_parent, record_stages
from components.tracking.store import connect
from tests.checkout import write_base
from tests.tracking.conftest import runs_of

StageFunction = Callable[[Settings, Checkout, Recorder], StageResult]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[StageName, StageFunction], None]:
    """Puts a function in the place of a stage's own."""
    functions: dict[str, StageFunction] = {}

    def put(name: StageName, function: StageFunction) -> None:
        functions[STAGES[name].function] = function

    monkeypatch.setattr(stage, "load", functions.__getitem__)
    return put


def small(_settings: Settings, checkout: Checkout, recorder: Recorder) -> StageResult:
    curves = checkout.root / "curves.jsonl"
    curves.write_text("".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, 1502)))
    recorder.points(("loss", 1 / step, step) for step in range(1, 1502))
    plot = checkout.artifacts / "plot.txt"
    plot.parent.mkdir(exist_ok=True)
    plot.write_text("a plot")
    recorder.artifact(curves)
    recorder.artifact(plot)
    return StageResult({"rows": 3, "share": 0.25, "absent": None}, {"rows_a_second": 7.5}, {"digest": "abc"})


def test_stage_records_parameters_metrics_curves_files_tags(checkout: Path, install: Callable[[StageName, StageFunction], None]) -> None:
    install("validate", small)
    stage.run_stage("validate", Checkout(checkout))
    client, _ = connect(Checkout(checkout))
    record = read_json(checkout / "artifacts/validate/run.json")
    run = client.get_run(record["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["validate.heldout_share"] == "0.2"
    assert "reward.epochs" not in run.data.params
    assert run.data.metrics["share"] == 0.25
    assert "absent" not in run.data.metrics
    curve = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(step, 1 / step) for step in range(1, 1502)]
    assert {"plot.txt", "curves.jsonl", "metrics.json", "run.json"} <= {item.path for item in client.list_artifacts(run.info.run_id)}
    assert run.data.tags["git.dirty"] == "false"
    assert run.data.tags["dvc.data"] == "data1.dir"
    assert len(run.data.tags["git.sha"]) == 40
    assert len(run.data.tags["env.lock_sha256"]) == 64
    assert run.data.tags["digest"] == "abc"
    assert read_json(checkout / "artifacts/validate/metrics.json") == {"rows": 3, "share": 0.25, "absent": None}
    assert record["times"] == {"rows_a_second": 7.5}
    assert record["digests"]["digest"] == "abc"
    assert record["digests"]["code"] == code_digest("validate")
    assert record["seconds"] >= 0


def test_finished_training_leaves_its_rate_for_the_plan(checkout: Path, install: Callable[[StageName, StageFunction], None]) -> None:
    install("reward", lambda *_: StageResult({"steps": 2}, {"tokens_per_second": 90.0}))
    stage.run_stage("reward", Checkout(checkout))
    assert not Checkout(checkout).rates.exists()  # the base model is not there, so nothing can be planned
    write_base(checkout / "data/base")
    stage.run_stage("reward", Checkout(checkout))
    rates = read_json(Checkout(checkout).rates)
    assert [(key.rpartition(":")[2], rate["tokens_per_second"]) for key, rate in rates.items()] == [("reward", 45.0)]  # two ranks
    assert next(iter(rates.values()))["device"] == processor().name


def test_stage_has_tags_of_input_hashes(checkout: Path, install: Callable[[StageName, StageFunction], None]) -> None:
    install("reward", small)
    stage.run_stage("reward", Checkout(checkout))
    record = read_json(checkout / "artifacts/reward/run.json")
    assert record["dvc"] == {"data": "data1.dir", "artifacts/validate/train": "t1.dir"}


def test_nan_metric_is_null_and_fails_stage(checkout: Path, install: Callable[[StageName, StageFunction], None]) -> None:
    install("validate", lambda _settings, _root, _recorder: StageResult({"loss": math.nan, "rows": 2}))
    with pytest.raises(StageFault, match="loss"):
        stage.run_stage("validate", Checkout(checkout))
    assert read_json(checkout / "artifacts/validate/metrics.json") == {"loss": None, "rows": 2}
    assert runs_of(checkout)[-1].info.status == "FAILED"


def test_mistake_is_recorded_as_its_sentence(checkout: Path, install: Callable[[StageName, StageFunction], None]) -> None:
    def refuse(_settings: Settings, _root: Path, _recorder: Recorder) -> StageResult:
        raise UserError("the data are bad: mend them")

    install("validate", refuse)
    with pytest.raises(UserError, match="mend them"):
        stage.run_stage("validate", Checkout(checkout))
    client, _ = connect(Checkout(checkout))
    path = client.download_artifacts(runs_of(checkout)[-1].info.run_id, "failure.txt")
    assert Path(path).read_text() == "the data are bad: mend them"


def test_failed_stage_records_traceback(checkout: Path, install: Callable[[StageName, StageFunction], None]) -> None:
    def fail(_settings: Settings, _root: Path, _recorder: Recorder) -> StageResult:
        raise RuntimeError("out of luck")

    install("validate", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        stage.run_stage("validate", Checkout(checkout))
    client, _ = connect(Checkout(checkout))
    run = runs_of(checkout)[-1]
    assert run.info.status == "FAILED"
    assert "out of luck" in Path(client.download_artifacts(run.info.run_id, "failure.txt")).read_text()


def test_stages_of_bare_repro_share_parent_until_evaluation(checkout: Path, install: Callable[[StageName, StageFunction], None]) -> None:
    order: list[StageName] = ["validate", "reward", "evaluate", "validate"]
    for name in order:
        install(name, small)
    for name in order:
        stage.run_stage(name, Checkout(checkout))
    runs = runs_of(checkout)
    parents = [run for run in runs if PARENT_TAG not in run.data.tags]
    children = [run for run in runs if PARENT_TAG in run.data.tags]
    assert [parent.info.status for parent in parents] == ["FINISHED", "RUNNING"]
    first, second = (parent.info.run_id for parent in parents)
    assert [child.data.tags[PARENT_TAG] for child in children] == [first, first, first, second]
    client, _ = connect(Checkout(checkout))
    assert {"params.yaml", "data.dvc", "dvc.yaml", "dvc.lock", "git.diff"} <= {item.path for item in client.list_artifacts(first)}
    # What a dvc that was ended early left open is ended by the next run.
    open_parent(Checkout(checkout), "mmalign run")
    assert client.get_run(second).info.status == "FINISHED"


def test_stage_of_run_becomes_child(
    checkout: Path, install: Callable[[StageName, StageFunction], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("validate", small)
    parent = open_parent(Checkout(checkout), "mmalign run")
    monkeypatch.setenv("MLFLOW_RUN_ID", parent)
    stage.run_stage("validate", Checkout(checkout))
    child = read_json(checkout / "artifacts/validate/run.json")["mlflow_run_id"]
    record_stages(
        Checkout(checkout),
        parent,
        {"validate": {"status": "ran", "mlflow_run_id": child}, "reward": {"status": "skipped", "mlflow_run_id": "old"}},
    )
    close_parent(Checkout(checkout), parent, "FINISHED")
    client, _ = connect(Checkout(checkout))
    assert client.get_run(child).data.tags[PARENT_TAG] == parent
    assert client.get_run(child).data.tags["dvc.artifacts/validate/train"] == "t1.dir"
    tags = client.get_run(parent).data.tags
    assert (tags["stage.validate"], tags["stage.reward"], tags["stage.reward.run_id"]) == ("ran", "skipped", "old")
    recorded = json.loads(Path(client.download_artifacts(parent, "stages.json")).read_text())
    assert recorded["validate"]["dvc"] == {"data/preferences": "d1.dir", "artifacts/validate/train": "t1.dir"}
    assert client.get_run(parent).info.status == "FINISHED"
