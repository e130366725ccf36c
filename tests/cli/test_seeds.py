"""`mmalign run --seeds` without trainings: which seeds, which runs, what is refused, what a stop leaves. tests/flows runs the real thing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.checkout import Checkout
from components.cli.run.one_run import Wanted, workspace
from components.cli.run.run import run
from components.cli.run.seeds import record, repeat_of, run_missing, run_seeds, wanted_seeds, with_own_results
from components.cli.stdout import output_on_stderr
from components.config.overrides import parse_assignments
from components.config.settings import load_settings
from components.errors import UserError
from components.files import write_json
from components.processes.guard import try_lock
from components.report.seeds import SeedRun, Seeds, read_seeds, write_seeds
from components.stages import STAGE_NAMES
from components.tracking.recorder import PARENT_TAG, Recorder
from components.tracking.store import connect
from tests.settings import copy_settings

METRIC = "policy.aligned.conversation"


@pytest.mark.parametrize(
    ("training", "alignment", "count", "expected"),
    [(0, None, 5, (0, 1, 2, 3, 4)), (7, None, 3, (7, 0, 1)), (0, 2, 4, (2, 0, 1, 3)), (1, 0, 2, (0, 1))],
)
def test_own_seed_is_the_first(checkout: Path, training: int, alignment: int | None, count: int, expected: tuple[int, ...]) -> None:
    settings = load_settings(checkout / "params.yaml")
    settings = settings.model_copy(
        update={
            "training": settings.training.model_copy(update={"seed": training}),
            "alignment": settings.alignment.model_copy(update={"seed": alignment}),
        }
    )
    assert wanted_seeds(settings, count, "policy") == expected
    if alignment is None:
        assert wanted_seeds(settings, count, "reward_model_and_policy") == expected
    else:
        with pytest.raises(UserError, match=f"alignment.seed fixes the policy's seed at {alignment}: set alignment.seed to null"):
            wanted_seeds(settings, count, "reward_model_and_policy")


def test_repeat_changes_the_seed_and_is_not_judged() -> None:
    wanted = Wanted(("alignment.beta=0.2",), bundled_rows=True)
    assert repeat_of(wanted, 3, "policy") == Wanted(
        ("alignment.beta=0.2", "alignment.seed=3"), bundled_rows=True, promote=False, rehearse=False
    )
    assert repeat_of(wanted, 3, "reward_model_and_policy").assignments[-1] == "training.seed=3"
    saved = Wanted(("alignment.beta=0.2",), save=True)
    assert repeat_of(saved, 1, "policy") == Wanted(("alignment.seed=1",), promote=False, rehearse=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 1}, "--seeds 1: a spread needs at least 2 seeds"),
        ({"seeds": 3, "only": ["align"]}, "--only belongs to one run"),
        ({"reward": True}, "--reward belongs to a run over seeds: add --seeds N"),
        ({"as_json": True}, "--json belongs to a run over seeds: add --seeds N"),
        ({"seeds": 3, "reward": True, "assignments": ["alignment.seed=4"]}, "fixes the policy's seed at 4: set alignment.seed to null"),
        ({"seeds": 3, "deployment": "nightly"}, "--seeds belongs to a run in this checkout: leave out --deployment"),
    ],
)
def test_option_without_effect_is_refused(checkout: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(**options)
    assert not (checkout / "reports").exists()


def test_foreign_file_is_refused_before_the_trainings(checkout: Path) -> None:
    write_json(checkout / "reports/seeds.json", {"runs": []})
    with pytest.raises(UserError, match="is not a result of `mmalign run --seeds`: delete it"):
        run(seeds=2)
    assert not (checkout / "dvc.lock").exists()


def test_second_command_in_a_checkout_is_refused(checkout: Path) -> None:
    lock = try_lock(checkout / ".mmalign/locks/seeds.lock")
    assert lock is not None
    with pytest.raises(UserError, match=f"seeds are run in this checkout already: process {os.getpid()}"):
        run_seeds(Checkout(checkout), Wanted(), 2, reward=False, as_json=False)
    lock.release()


def test_json_output_leaves_all_else_on_stderr(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", os.fdopen(1, "w", closefd=False))  # pytest's own writes into its file
    with output_on_stderr(True):
        print("progress", flush=True)
        os.write(1, b"of a child\n")
    print("the result", flush=True)
    captured = capfd.readouterr()
    assert captured.out == "the result\n"
    assert captured.err == "progress\nof a child\n"


def write_results(checkout: Checkout, value: float, *, data: str = "d", run_id: str | None = None) -> None:
    """The metrics of a run and its dvc.lock, as made from `data`."""
    stages = {name: {"deps": [{"path": "data/preferences", "md5": data}], "outs": [], "params": {}} for name in STAGE_NAMES}
    checkout.root.mkdir(parents=True, exist_ok=True)
    (checkout.root / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    write_json(checkout.artifact("evaluate", "metrics.json"), {METRIC: value})
    write_json(checkout.summary, {"mlflow_run_id": run_id})


@pytest.fixture
def own(tmp_path: Path) -> Checkout:
    """A checkout with the results of its own run."""
    copy_settings(tmp_path)
    write_results(Checkout(tmp_path), 90.0)
    return Checkout(tmp_path)


def trained(own: Checkout, ran: list[int], **wrong: Any) -> Callable[[Wanted], int]:
    """A run that ends at once: seed k measures 90 + k."""

    def run(wanted: Wanted) -> int:
        seed = int(parse_assignments(wanted.assignments)["alignment.seed"])
        ran.append(seed)
        write_results(workspace(own, wanted), 90.0 + seed, data=wrong.get("data", "d"))
        return int(wrong.get("codes", {}).get(seed, 0))

    return run


def values(own: Checkout) -> dict[int, Any]:
    seeds = read_seeds(own)
    assert seeds is not None
    return {run.seed: run.metrics[METRIC] for run in seeds.runs}


def test_failed_seed_leaves_those_before_it_and_is_repeated(own: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[int] = []
    seeds = with_own_results(own, (0, 1, 2, 3), "policy")
    assert run_missing(own, own, seeds, Wanted(), trained(own, ran, codes={2: 130})) == 130
    assert ran == [1, 2]
    assert values(own) == {0: 90.0, 1: 91.0}
    assert "seed 2 ended with exit code 130; the same command continues" in capsys.readouterr().out

    ran.clear()
    assert run_missing(own, own, with_own_results(own, (0, 1, 2, 3), "policy"), Wanted(), trained(own, ran)) == 0
    assert ran == [2, 3]
    assert values(own) == {0: 90.0, 1: 91.0, 2: 92.0, 3: 93.0}
    assert "seeds: 4 of 4 are finished" in capsys.readouterr().out


def test_seed_with_other_data_is_not_compared(own: Checkout) -> None:
    seeds = with_own_results(own, (0, 1), "policy")
    write_seeds(own, seeds)
    with pytest.raises(UserError, match="changed while the seeds ran, so seed 1 can't be compared"):
        run_missing(own, own, seeds, Wanted(), trained(own, [], data="edited"))
    assert values(own) == {0: 90.0}


def test_results_of_other_inputs_are_not_reused(own: Checkout) -> None:
    seeds = with_own_results(own, (0, 1), "policy")
    assert run_missing(own, own, seeds, Wanted(), trained(own, [])) == 0
    assert with_own_results(own, (0, 1), "policy").missing == []
    assert with_own_results(own, (0, 1, 2), "policy").missing == [2]
    assert with_own_results(own, (0, 1), "reward_model_and_policy").missing == [1]
    write_results(own, 80.0, data="edited")
    changed = with_own_results(own, (0, 1), "policy")
    assert (changed.missing, changed.runs) == ([1], (SeedRun(0, {METRIC: 80.0}),))


def test_spread_is_a_run_above_the_repeats(own: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = [Recorder.create(own, "mmalign run", parent=None, tags={}) for _ in range(2)]
    for recorder in runs:
        recorder.end("FINISHED")
    results = tuple(SeedRun(seed, {METRIC: 90.0 + 2 * seed}, recorder.run_id) for seed, recorder in enumerate(runs))
    seeds = record(own, Seeds("policy", "digest", (0, 1), results))
    assert read_seeds(own) == seeds
    client, _ = connect(own)
    parent = client.get_run(seeds.mlflow_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {
        f"{METRIC}.mean": 91.0, f"{METRIC}.standard_deviation": pytest.approx(2**0.5), f"{METRIC}.least": 90.0, f"{METRIC}.greatest": 92.0,
    }  # fmt: skip
    assert parent.data.params == {"varies": "policy", "seeds": "0 1", "inputs": "digest"}
    assert [artifact.path for artifact in client.list_artifacts(seeds.mlflow_run_id)] == ["seeds.json"]
    assert [client.get_run(recorder.run_id).data.tags.get(PARENT_TAG) for recorder in runs] == [None, seeds.mlflow_run_id]
