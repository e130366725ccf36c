from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from components.checkout import Checkout
from components.closures import CODE_STAGE
from components.config.settings import Settings, load_settings
from components.errors import UserError
from components.stages import STAGE_NAMES, StageName
from components.storage.plan import Step, stage_parents
from flows.pipeline import ORDER, Pipeline
from flows.slots import Slots
from flows.stages import StageOutcome
from tests.checkout import ROOT

PARENTS = {
    "validate": set[str](),
    "reward": {"validate"},
    "critique": {"validate", "reward"},
    "reference": {"validate"},
    "align": {"validate", "critique", "reference"},
    "evaluate": {"validate", "reward", "critique", "reference", "align"},
}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(ROOT / "params.yaml")


class Bench:
    """A pipeline whose stages only note that they ran. A stage in `fails` fails, one in `together` waits for another one."""

    def __init__(self, settings: Settings, *, cores: int = 2, skip: set[str] = frozenset(), only: tuple[StageName, ...] = ()) -> None:  # type: ignore[assignment]
        self.skip = set(skip)
        self.ran: list[str] = []
        self.fails: dict[str, str] = {}
        self.together: threading.Barrier | None = None
        self.cancel = threading.Event()
        self.pool = ThreadPoolExecutor(6)
        self.pipeline = Pipeline(
            parents=PARENTS,
            steps={name: Step("skip" if name in self.skip else "run", "because") for name in STAGE_NAMES},
            start=self.start,
            slots=Slots(settings, cores=cores, gpus=0),
            changed=lambda: None,
            cancel=self.cancel,
            only=only,
        )

    def start(self, stage: StageName) -> Future[StageOutcome]:
        return self.pool.submit(self.work, stage)

    def work(self, stage: StageName) -> StageOutcome:
        if self.together is not None and stage in {"reward", "reference"}:
            self.together.wait(20)
        if stage in self.skip:
            return StageOutcome(stage, "skipped")
        end = self.fails.get(stage, "ok")
        if end == "ok":
            self.ran.append(stage)
        return StageOutcome(stage, end, end == "ok", 1.5, Path("log"), None)  # type: ignore[arg-type]

    def run(self) -> dict[str, str]:
        self.pipeline.run()
        self.pool.shutdown()
        return {name: record.status for name, record in self.pipeline.records.items()}


def test_order_is_topological_and_covers_dvc_yaml() -> None:
    parents = stage_parents(Checkout(ROOT))
    assert set(ORDER) == set(parents) == set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]) - {CODE_STAGE}
    for position, name in enumerate(ORDER):
        assert parents[name] <= set(ORDER[:position]), f"{name} reads what comes later"


def test_graph_of_dvc_yaml_equals_design() -> None:
    assert stage_parents(Checkout(ROOT)) == PARENTS


def test_stale_stages_run_one_by_one_on_few_cores(settings: Settings) -> None:
    bench = Bench(settings)
    assert bench.run() == dict.fromkeys(STAGE_NAMES, "ran")
    assert bench.ran == list(ORDER)


def test_independent_stages_run_side_by_side(settings: Settings) -> None:
    bench = Bench(settings, cores=64)
    bench.together = threading.Barrier(2)  # broken after its time when they come one after the other
    assert bench.run() == dict.fromkeys(STAGE_NAMES, "ran")
    assert not bench.together.broken


def test_stage_with_unchanged_inputs_is_skipped(settings: Settings) -> None:
    bench = Bench(settings, skip={"reward", "critique", "align"})
    statuses = bench.run()
    assert bench.ran == ["validate", "reference", "evaluate"]
    assert (statuses["reward"], statuses["critique"], statuses["align"]) == ("skipped", "skipped", "skipped")


def test_no_stage_starts_after_failure(settings: Settings) -> None:
    bench = Bench(settings)
    bench.fails["critique"] = "failed"
    statuses = bench.run()
    assert statuses == {
        "validate": "ran", "reward": "ran", "critique": "failed", "reference": "not_reached", "align": "not_reached", "evaluate": "not_reached",
    }  # fmt: skip
    assert bench.pipeline.failure is not None
    assert bench.pipeline.failure.stage == "critique"


def test_stage_beside_failed_one_finishes(settings: Settings) -> None:
    bench = Bench(settings, cores=64)
    bench.together = threading.Barrier(2)
    bench.fails["reward"] = "failed"
    statuses = bench.run()
    assert (statuses["reward"], statuses["reference"], statuses["critique"]) == ("failed", "ran", "not_reached")


def test_cancelled_run_starts_nothing(settings: Settings) -> None:
    bench = Bench(settings)
    bench.cancel.set()
    assert bench.run() == dict.fromkeys(STAGE_NAMES, "not_reached")
    assert bench.pipeline.cancelled


def test_only_option_runs_named_stage(settings: Settings) -> None:
    bench = Bench(settings, skip={"validate", "reward", "critique", "reference"}, only=("align",))
    statuses = bench.run()
    assert bench.ran == ["align"]
    assert (statuses["validate"], statuses["align"], statuses["evaluate"]) == ("skipped", "ran", "not_reached")


def test_only_option_refuses_stale_inputs(settings: Settings) -> None:
    bench = Bench(settings, skip={"validate", "reference"}, only=("align",))
    with pytest.raises(UserError, match=r"align reads what critique makes, which is stale \(because\); add critique to --only"):
        bench.run()
    assert bench.ran == []


def test_stage_that_wants_more_gpus_takes_all(settings: Settings) -> None:
    wanting = settings.model_copy(update={"stages": {**settings.stages, "align": settings.stages["align"].model_copy(update={"gpus": 2})}})
    slots = Slots(wanting, cores=8, gpus=1)
    assert slots.take("validate")  # `--only validate` needs no GPU
    assert slots.take("align")  # the stage itself refuses, and names the setting


def test_gpu_serves_one_stage_at_once(settings: Settings) -> None:
    both = {name: settings.stages[name].model_copy(update={"gpus": 1}) for name in ("reward", "reference")}
    slots = Slots(settings.model_copy(update={"stages": {**settings.stages, **both}}), cores=64, gpus=1)
    assert slots.take("reward")
    assert not slots.take("reference")
    slots.give_back("reward")
    assert slots.take("reference")
