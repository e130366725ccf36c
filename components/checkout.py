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


@dataclass(frozen=True)
class Checkout:
    """The folder that holds dvc.yaml, and what lies where in it. `root` may be relative."""

    root: Path

    def absolute(self) -> Checkout:
        """The same checkout by its absolute path without links."""
        return Checkout(self.root.resolve())

    # What a person writes.

    @property
    def params(self) -> Path:
        """The settings that change results, params.yaml."""
        return self.root / "params.yaml"

    @property
    def ops(self) -> Path:
        """The settings that change no result, ops.yaml."""
        return self.root / "ops.yaml"

    @property
    def graph(self) -> Path:
        """The stage graph, dvc.yaml."""
        return self.root / "dvc.yaml"

    @property
    def requirements(self) -> Path:
        """The exact versions of the environment."""
        return self.root / "requirements.txt"

    @property
    def deepspeed(self) -> Path:
        """DeepSpeed's settings, a file a ZeRO stage."""
        return self.root / "infra" / "deepspeed"

    @property
    def gate_rules(self) -> Path:
        """What a model must show to become champion."""
        return self.root / "mlflow" / "registry.yaml"

    @property
    def judge_sheets(self) -> Path:
        """The measured errors of judges, a file a judge."""
        return self.root / "judges" / "sheets"

    def settings(self) -> Settings:
        """The settings of both files as they are now. Raises UserError with file, key and cure."""
        from components.config.settings import load_settings

        return load_settings(self.params)

    # The data, and DVC's record of it.

    @property
    def data(self) -> Path:
        """The versioned data."""
        return self.root / "data"

    @property
    def data_version(self) -> Path:
        """DVC's record of the data's version, data.dvc."""
        return self.root / "data.dvc"

    @property
    def preferences(self) -> Path:
        """Rows and the media that they name."""
        return self.data / "preferences"

    @property
    def ground_truth(self) -> Path:
        """What is true of each medium, where somebody has written it down."""
        return self.data / "truth" / "truth.jsonl"

    @property
    def lock(self) -> Path:
        """DVC's record of the stages' last runs, dvc.lock."""
        return self.root / "dvc.lock"

    @property
    def dvc(self) -> Path:
        """DVC's folder."""
        return self.root / ".dvc"

    # What the stages write.

    @property
    def artifacts(self) -> Path:
        """The outs of all stages."""
        return self.root / "artifacts"

    def artifact(self, stage: StageName | str, *names: str) -> Path:
        """A file or folder of a stage's outs."""
        return self.artifacts.joinpath(stage, *names)

    @property
    def digests(self) -> Path:
        """What each stage's code means, a file a stage."""
        return self.artifacts / "code"

    def queries(self, split: str) -> Path:
        """Validated queries of a split, `train` or `heldout`."""
        return self.artifact("validate", split, "queries.parquet")

    @property
    def expanded(self) -> Path:
        """Critiques that were expanded from people's reasons, for the validated training queries."""
        return self.artifact("validate", "expanded.parquet")

    def critiques(self, split: str) -> Path:
        """Critiques and scores of a split's responses."""
        return self.artifact("critique", f"{split}.parquet")

    def reference(self, split: str) -> Path:
        """Log-probs of a split's responses under the base model."""
        return self.artifact("reference", f"{split}.parquet")

    @property
    def reward_model(self) -> Path:
        """The reward model."""
        return self.artifact("reward", "model")

    @property
    def policy(self) -> Path:
        """The aligned model."""
        return self.artifact("align", "model")

    @property
    def results(self) -> Path:
        """Per-query results of the last evaluation."""
        return self.artifact("evaluate", "results")

    @property
    def validation_pages(self) -> Path:
        """Great Expectations' data docs."""
        return self.artifacts / "validate-docs"

    # What a run leaves for people.

    @property
    def reports(self) -> Path:
        """The page and the summary of the last run."""
        return self.root / "reports"

    @property
    def summary(self) -> Path:
        """The last run's metrics and states, as JSON."""
        return self.reports / "summary.json"

    @property
    def page(self) -> Path:
        """The last run on one page."""
        return self.reports / "report.html"

    @property
    def import_report(self) -> Path:
        """What the last import read, made and left out, as JSON."""
        return self.reports / "import.json"

    @property
    def import_places(self) -> Path:
        """Each row that the last import refused or changed, with file and line."""
        return self.reports / "import-places.jsonl"

    @property
    def bench_results(self) -> Path:
        """Results of benchmarks, a file a model and benchmark."""
        return self.reports / "bench"

    @property
    def logs(self) -> Path:
        """Logs of runs, a folder a run."""
        return self.root / "logs"

    @property
    def mlruns(self) -> Path:
        """MLflow's artifacts, where the checkout keeps its own record."""
        return self.root / "mlruns"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's SQLite database, where the checkout keeps its own record."""
        return self.root / "mlflow.db"

    # The untracked state.

    @property
    def state(self) -> Path:
        """Caches, checkpoints, locks and services."""
        return self.root / STATE

    @property
    def caches(self) -> Path:
        """The caches by content, a folder or a file a kind."""
        return self.state / "cache"

    def cache(self, kind: str) -> Path:
        """A cache by content: features, critiques, reference log-probs, evaluations, the tables that trainings map."""
        return self.caches / kind

    @property
    def locks(self) -> Path:
        """Lock files."""
        return self.state / "locks"

    def scratch(self, *names: str) -> Path:
        """Resumable checkpoints and work files: of all stages, or of one."""
        return self.state.joinpath("scratch", *names)

    @property
    def push(self) -> Path:
        """The copy of DVC's repository that a push works in."""
        return self.state / "push"

    @property
    def notices(self) -> Path:
        """Notices that wait for their receiver."""
        return self.state / "notices"

    @property
    def machine(self) -> Path:
        """What was measured on this machine."""
        return self.state / "machine"

    @property
    def rates(self) -> Path:
        """Training rates that were measured on this machine."""
        return self.machine / "rates.json"

    @property
    def rehearsal(self) -> Path:
        """The checkout that a rehearsal works in."""
        return self.state / "rehearsal"

    @property
    def rehearsals(self) -> Path:
        """What was rehearsed on this machine, and how it ended."""
        return self.machine / "rehearsals.json"

    @property
    def bench(self) -> Path:
        """What benchmarks need: copies of their media, lmms-eval's environment, its samples."""
        return self.state / "bench"

    @property
    def whole_data(self) -> Path:
        """The last version of data/ of which this checkout had every file."""
        return self.state / "data-version"

    @property
    def imports(self) -> Path:
        """Imports of data that have not ended yet."""
        return self.state / "import"

    @property
    def uses(self) -> Path:
        """When each object of DVC's cache was last in use."""
        return self.state / "clean" / "used.json"

    @property
    def attempts(self) -> Path:
        """How each stage's last attempt ended."""
        return self.state / "attempts"

    @property
    def tracking(self) -> Path:
        """Records that wait for MLflow."""
        return self.state / "tracking"

    @property
    def torch_extensions(self) -> Path:
        """Ops that DeepSpeed compiled."""
        return self.state / "torch_extensions"


IN_CHECKOUT = Checkout(Path())  # its paths are relative to any checkout: as DVC, MLflow and messages write them
