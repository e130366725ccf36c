"""A checkout: every path in it by name, and its settings.

`artifacts/...` and `.mmalign` are spelled here and nowhere else. A path that has no name yet gets one here, or is `checkout.root / ...` where
a person gave it. Nothing here creates or reads a file but `settings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.config.settings import Settings
    from components.stages import StageName

STATE = ".mmalign"  # untracked: caches, checkpoints, locks, services


class _Path:
    """An attribute of a checkout: a path below its root."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, checkout: Checkout, _: type[Checkout]) -> Path:
        return checkout.root / self._name


@dataclass(frozen=True)
class Checkout:
    """The folder that holds dvc.yaml, and what lies where in it. `root` may be relative."""

    root: Path

    def absolute(self) -> Checkout:
        """The same checkout by its absolute path without links."""
        return Checkout(self.root.resolve())

    # What a person writes.

    params = _Path("params.yaml")  # the settings that change results, params.yaml
    ops = _Path("ops.yaml")  # the settings that change no result, ops.yaml
    graph = _Path("dvc.yaml")  # the stage graph, dvc.yaml
    requirements = _Path("requirements.txt")  # the exact versions of the environment
    deepspeed = _Path("infra/deepspeed")  # DeepSpeed's settings, a file a ZeRO stage
    gate_rules = _Path("mlflow/registry.yaml")  # what a model must show to become champion
    judge_sheets = _Path("judges/sheets")  # the measured errors of judges, a file a judge

    def settings(self) -> Settings:
        """The settings of both files as they are now. Raises UserError with file, key and cure."""
        from components.config.settings import load_settings

        return load_settings(self.params)

    # The data, and DVC's record of it.

    data = _Path("data")  # the versioned data
    data_version = _Path("data.dvc")  # DVC's record of the data's version, data.dvc
    preferences = _Path("data/preferences")  # rows and the media that they name
    ground_truth = _Path("data/truth/truth.jsonl")  # what is true of each medium, where somebody has written it down
    lock = _Path("dvc.lock")  # DVC's record of the stages' last runs, dvc.lock
    dvc = _Path(".dvc")  # DVC's folder

    # What the stages write.

    artifacts = _Path("artifacts")  # the outs of all stages

    def artifact(self, stage: StageName | str, *names: str) -> Path:
        """A file or folder of a stage's outs."""
        return self.artifacts.joinpath(stage, *names)

    digests = _Path("artifacts/code")  # what each stage's code means, a file a stage

    def queries(self, split: str) -> Path:
        """Validated queries of a split, `train` or `heldout`."""
        return self.artifact("validate", split, "queries.parquet")

    expanded = _Path("artifacts/validate/expanded.parquet")  # critiques expanded from people's reasons, for the validated training queries

    def critiques(self, split: str) -> Path:
        """Critiques and scores of a split's responses."""
        return self.artifact("critique", f"{split}.parquet")

    def reference(self, split: str) -> Path:
        """Log-probs of a split's responses under the base model."""
        return self.artifact("reference", f"{split}.parquet")

    reward_model = _Path("artifacts/reward/model")  # the reward model
    policy = _Path("artifacts/align/model")  # the aligned model
    results = _Path("artifacts/evaluate/results")  # per-query results of the last evaluation
    fresh = _Path("artifacts/evaluate/fresh")  # the same of the part that the gate opens last
    validation_pages = _Path("artifacts/validate-docs")  # Great Expectations' data docs

    # What a run leaves for people.

    reports = _Path("reports")  # the page and the summary of the last run
    summary = _Path("reports/summary.json")  # the last run's metrics and states, as JSON
    page = _Path("reports/report.html")  # the last run on one page
    import_report = _Path("reports/import.json")  # what the last import read, made and left out, as JSON
    import_places = _Path("reports/import-places.jsonl")  # each row that the last import refused or changed, with file and line
    bench_results = _Path("reports/bench")  # results of benchmarks, a file a model and benchmark
    logs = _Path("logs")  # logs of runs, a folder a run
    mlruns = _Path("mlruns")  # MLflow's artifacts, where the checkout keeps its own record
    mlflow_database = _Path("mlflow.db")  # MLflow's SQLite database, where the checkout keeps its own record

    # The untracked state.

    state = _Path(STATE)  # caches, checkpoints, locks and services
    caches = _Path(f"{STATE}/cache")  # the caches by content, a folder or a file a kind

    def cache(self, kind: str) -> Path:
        """A cache by content: features, critiques, reference log-probs, evaluations, the tables that trainings map."""
        return self.caches / kind

    locks = _Path(f"{STATE}/locks")  # lock files

    def scratch(self, *names: str) -> Path:
        """Resumable checkpoints and work files: of all stages, or of one."""
        return self.state.joinpath("scratch", *names)

    push = _Path(f"{STATE}/push")  # the copy of DVC's repository that a push works in
    notices = _Path(f"{STATE}/notices")  # notices that wait for their receiver
    machine = _Path(f"{STATE}/machine")  # what was measured on this machine
    rates = _Path(f"{STATE}/machine/rates.json")  # training rates that were measured on this machine
    rehearsal = _Path(f"{STATE}/rehearsal")  # the checkout that a rehearsal works in
    rehearsals = _Path(f"{STATE}/machine/rehearsals.json")  # what was rehearsed on this machine, and how it ended
    bench = _Path(f"{STATE}/bench")  # what benchmarks need: copies of their media, lmms-eval's environment, its samples
    whole_data = _Path(f"{STATE}/data-version")  # the last version of data/ of which this checkout had every file
    imports = _Path(f"{STATE}/import")  # imports of data that have not ended yet
    uses = _Path(f"{STATE}/clean/used.json")  # when each object of DVC's cache was last in use
    attempts = _Path(f"{STATE}/attempts")  # how each stage's last attempt ended
    tracking = _Path(f"{STATE}/tracking")  # records that wait for MLflow
    torch_extensions = _Path(f"{STATE}/torch_extensions")  # ops that DeepSpeed compiled


IN_CHECKOUT = Checkout(Path())  # its paths are relative to any checkout: as DVC, MLflow and messages write them
