"""A small checkout with its own real services in a temporary folder, and the chaos benchmark's queries to it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks._bundled import fetch_data
from benchmarks._chaos_counts import Seen
from benchmarks._harness import ROOT
from benchmarks._slice import CHANGING_OUTS, SMALL, Slice, make_slice, write_slice
from components.checkout import Checkout
from components.engine.curves import CURVES
from components.files import digest_folder, read_json
from components.operations.services import postgres
from components.operations.services.health import answers
from components.operations.services.state import read_addresses
from components.operations.services.supervision import control, processes
from components.processes.marks import RUN_MARK, SERVICE_MARK, checkout_mark, kill_all, marked
from components.processes.secrets import read_secrets, state_folder
from components.report.summary import MODELS
from components.tracking.recorder import PENDING, PENDING_TAG
from components.tracking.store import EXPERIMENT
from flows.flow_runs import FINAL, deployment_id, start_run
from tests.prefect_rest import ask

DEPLOYMENT = "on-demand"
TRAINED = ("reward", "align")
# Each trained stage with all stages that depend on it.
REDONE = {"reward": ("reward", "critique", "align", "evaluate"), "align": ("align", "evaluate")}
SETTINGS: dict[str, dict[str, Any]] = {
    **SMALL,
    "deployments": {
        "crashed_after_seconds": 100,
        "retry_seconds": 5,
        "cron": "0 0 29 2 *",  # neither the schedule nor a poll for new data may start a run
        "poll_cron": "0 0 29 2 *",
    },
}
# Environment variables of the user that must not reach the benchmark's services.
THEIRS = ("MMALIGN_STATE", "MMALIGN_NOTICES", "MMALIGN_S3_BUCKET", "MMALIGN_SLOTS", "DATABASE_URL")
REST_SECONDS = 15.0


@dataclass(frozen=True)
class Result:
    """A run's result: digests of both models' weights, dvc.lock without the outs that change from run to run, and each training's curves."""

    weights: dict[str, str]
    lock: dict[str, Any]
    curves: dict[str, list[tuple[str, int, float]]]


@dataclass(frozen=True)
class Stack:
    """The checkout with its services up and deployed."""

    slice: Slice

    @property
    def root(self) -> Path:
        """The checkout."""
        return self.slice.root

    def scratch(self, stage: str) -> Path:
        """The folder of a training's checkpoints and curves."""
        return self.root / ".mmalign" / "scratch" / stage

    def prepare(self, stage: str) -> None:
        """Make `stage` and the stages that depend on it stale. Without run-cache and scratch, only running them restores their outs."""
        shutil.rmtree(self.root / ".dvc/cache/runs", ignore_errors=True)
        shutil.rmtree(self.root / ".mmalign/scratch", ignore_errors=True)
        path = self.root / "dvc.lock"
        lock = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name in REDONE[stage]:
            lock["stages"].pop(name, None)
            shutil.rmtree(self.root / "artifacts" / name, ignore_errors=True)
        path.write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")

    def trigger(self, **parameters: Any) -> str:
        """Start a run through Prefect's API; return its id."""
        return str(start_run(Checkout(self.root), DEPLOYMENT, parameters).id)

    def runs(self) -> list[dict[str, Any]]:
        """All runs of the deployment, the first one first. OSError while the server is away."""
        body = {
            "flow_runs": {"deployment_id": {"any_": [deployment_id(Checkout(self.root), DEPLOYMENT)]}},
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": 200,
        }
        flow_runs: list[dict[str, Any]] = ask(Checkout(self.root), "flow_runs/filter", body)
        return flow_runs

    def service_works(self, target: str, killed: Sequence[int]) -> bool:
        """Whether the killed service works again; True if the target was no service."""
        addresses, secrets = read_addresses(Checkout(self.root)), read_secrets(Checkout(self.root))
        assert addresses is not None, "the services are up"
        match target:
            case "server":
                return answers(f"{addresses.prefect}/api/health")
            case "record":
                return answers(f"{addresses.mlflow}/health")
            case "servers":
                return answers(f"{addresses.prefect}/api/health") and answers(f"{addresses.mlflow}/health")
            case "database" | "connection":
                return postgres.answers(addresses, secrets)
            case "worker" | "worker and all below":
                process = control(Checkout(self.root), secrets).getProcessInfo("worker")
                return process["statename"] == "RUNNING" and process["pid"] not in killed
        return True

    def judged(self) -> bool:
        """Whether the last run's summary has a verdict on both models."""
        gate = read_json(self.root / "reports" / "summary.json")["gate"]
        return all(gate[model]["verdict"] is not None for model in MODELS)

    def result(self, names: Mapping[str, Collection[str]]) -> Result:
        """The present result in the checkout and in MLflow, with the curves in `names` of each training."""
        lock = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))
        for stage in lock["stages"].values():
            stage["outs"] = [out for out in stage["outs"] if not out["path"].endswith(CHANGING_OUTS)]
        weights = {stage: digest_folder(self.root / "artifacts" / stage / "model") for stage in TRAINED}
        return Result(weights, lock, {stage: self._curves(stage, wanted) for stage, wanted in names.items()})

    def curve_names(self, stage: str) -> set[str]:
        """The names of a training's curves, from its curves file."""
        (curves,) = self.scratch(stage).glob(f"*/{CURVES}")
        return {name for line in curves.read_text(encoding="utf-8").splitlines() for name in json.loads(line)} - {"step"}

    def _curves(self, stage: str, names: Collection[str]) -> list[tuple[str, int, float]]:
        """A training's curves in the MLflow run that the stage's record names, without step 0, which marks metrics that are logged once."""
        run_id = str(read_json(self.root / "artifacts" / stage / "run.json")["mlflow_run_id"])
        if run_id.startswith(PENDING):
            experiment = self._mlflow(f"experiments/get-by-name?experiment_name={EXPERIMENT}")["experiment"]["experiment_id"]
            body = {"experiment_ids": [experiment], "filter": f"tags.`{PENDING_TAG}` = '{run_id}'"}
            run_id = self._mlflow("runs/search", body)["runs"][0]["info"]["run_id"]
        points = []
        for name in sorted(names):
            history = self._mlflow(f"metrics/get-history?run_id={run_id}&metric_key={name}&max_results=10000").get("metrics", [])
            points += [(name, int(point["step"]), float(point["value"])) for point in history if int(point["step"])]
        return points

    def _mlflow(self, path: str, body: dict[str, Any] | None = None) -> Any:
        addresses, secrets = read_addresses(Checkout(self.root)), read_secrets(Checkout(self.root))
        assert addresses is not None, "the services are up"
        who = base64.b64encode(f"{secrets.mlflow_user}:{secrets.mlflow_password}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310 -- http to a server of our own
            f"{addresses.mlflow}/api/2.0/mlflow/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json", "authorization": f"Basic {who}"},
        )
        with urllib.request.urlopen(request, timeout=REST_SECONDS) as answer:  # noqa: S310
            return json.loads(answer.read())

    def living(self) -> list[Seen]:
        """Live processes that carry a mark of this checkout or work in its folder."""
        supervised = {process.pid for process in processes(Checkout(self.root))}
        of_runs = {process.pid for process in marked(RUN_MARK, checkout_mark(Checkout(self.root)))}
        seen = []
        for process in psutil.process_iter():
            if process.pid == os.getpid():
                continue
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                # PostgreSQL's connections overwrite their environment with a title.
                inside = process.pid in supervised | of_runs or Path(process.cwd()).is_relative_to(self.root)
                words = process.cmdline()
                if inside:
                    of_a_run = process.pid in of_runs or "prefect.engine" in words[:4]
                    parents = tuple(parent.pid for parent in process.parents())
                    seen.append(Seen(process.pid, " ".join(words)[:100], of_a_run, parents))
        return seen

    def supervisor(self) -> int:
        """The pid of supervisord."""
        return int((state_folder(Checkout(self.root)) / "supervisord.pid").read_text(encoding="utf-8"))


def under_way(runs: list[dict[str, Any]]) -> bool:
    """Whether a run is unfinished."""
    return any(run["state_type"] not in FINAL for run in runs)


@contextmanager
def chaos_stack(log: Callable[[str], None], keep: Callable[[], bool]) -> Iterator[Stack]:
    """The checkout with its services. Afterwards, end the services, and remove the folder unless `keep` is true or an error occurred."""
    fetch_data()
    for name in THEIRS:
        os.environ.pop(name, None)
    folder = Path(tempfile.mkdtemp(prefix="mmalign-chaos-"))
    made: Slice | None = None
    broken = False
    try:
        made = make_slice(folder, ROOT / "data/base", write_slice, SETTINGS)
        made.environment["MMALIGN_SLOTS"] = str(folder / "slots")  # slots of its own: no waiting for other trainings on this machine
        for command in (["up", "--detach"], ["deploy"]):
            _command(made, command, log)
        yield Stack(made)
    except Exception:
        broken = True
        raise
    finally:
        if made is not None:
            _end(made)
        if broken or keep():
            log(f"the checkout stays in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _command(made: Slice, command: list[str], log: Callable[[str], None]) -> None:
    began = time.monotonic()
    completed = made.mmalign(*command, timeout=900)
    if completed.returncode != 0:
        raise RuntimeError(
            f"mmalign {' '.join(command)} ended with {completed.returncode}:\n{(completed.stdout + completed.stderr)[-3000:]}"
        )
    log(f"mmalign {' '.join(command)}: {time.monotonic() - began:.0f} s")


def _end(made: Slice) -> None:
    """End the services and everything below them."""
    try:
        if read_addresses(Checkout(made.root)) is not None:
            made.mmalign("down", timeout=240)
    finally:
        mark = checkout_mark(Checkout(made.root))
        kill_all(lambda: [*marked(SERVICE_MARK, mark), *marked(RUN_MARK, mark)])
