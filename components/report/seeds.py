"""The spread of a run's metrics over seeds: reports/seeds.json, its table in the terminal, its section on the page.

- The file has the metrics of every seed, and of each metric mean, standard deviation (of a sample: n - 1), least and greatest value. Values are
  those of artifacts/evaluate/metrics.json, in their units.
- `inputs` is a digest of what dvc.lock says the results were made from (data, base, code, settings), but for the seed and for what stages made of
  it. It is the same for all seeds, and tells a file that belongs to an earlier state of the checkout.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from components.checkout import Checkout
from components.config.overrides import flatten
from components.errors import UserError
from components.files import digest_bytes, read_json, write_json
from components.printable import open_console
from components.report.summary import CATEGORIES, Number, part_names
from components.report.table import POLICY_ROWS
from components.report.wording import number
from components.stages import STAGE_NAMES
from components.tracking.provenance import LOCK, read_yaml

SEEDS = Path("reports") / "seeds.json"
Varies = Literal["policy", "reward_model_and_policy"]
SEED_KEYS: dict[Varies, tuple[str, ...]] = {
    "policy": ("alignment.seed",),
    "reward_model_and_policy": ("training.seed", "alignment.seed"),
}
WORDS: dict[Varies, str] = {"policy": "policy", "reward_model_and_policy": "reward model and policy"}


@dataclass(frozen=True)
class SeedRun:
    """The results of one seed: the flat metrics of stage evaluate that are compared, and the parent run in MLflow."""

    seed: int
    metrics: Mapping[str, Number]
    mlflow_run_id: str | None = None


@dataclass(frozen=True)
class Spread:
    """A metric over seeds. `deviation` is a sample's, None for one seed."""

    name: str
    seeds: int
    mean: float
    deviation: float | None
    least: float
    greatest: float

    @classmethod
    def of(cls, name: str, values: Sequence[float]) -> Spread:
        """The spread of a metric's values, of which there is one at least."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(name, len(values), statistics.fmean(values), deviation, min(values), max(values))


@dataclass(frozen=True)
class Seeds:
    """The results of a run's seeds so far; `seeds` are all that were wanted."""

    varies: Varies
    inputs: str
    seeds: tuple[int, ...]
    runs: tuple[SeedRun, ...] = ()
    mlflow_run_id: str | None = None

    @property
    def missing(self) -> list[int]:
        """The seeds without results."""
        present = {run.seed for run in self.runs}
        return [seed for seed in self.seeds if seed not in present]

    def spreads(self) -> list[Spread]:
        """The spread of every metric, in the order of the table; over the seeds that have it."""
        names = dict.fromkeys(name for run in self.runs for name in run.metrics)
        values = {name: [float(value) for run in self.runs if (value := run.metrics.get(name)) is not None] for name in names}
        return [Spread.of(name, of_name) for name, of_name in values.items() if of_name]

    def as_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "schema": 1,
            "varies": self.varies,
            "inputs": self.inputs,
            "seeds": list(self.seeds),
            "missing": self.missing,
            "mlflow_run_id": self.mlflow_run_id,
            "runs": [{"seed": run.seed, "mlflow_run_id": run.mlflow_run_id, "metrics": dict(run.metrics)} for run in self.runs],
            "metrics": {
                spread.name: {
                    "seeds": spread.seeds,
                    "mean": spread.mean,
                    "standard_deviation": spread.deviation,
                    "least": spread.least,
                    "greatest": spread.greatest,
                }
                for spread in self.spreads()
            },
        }


def read_seeds(checkout: Checkout) -> Seeds | None:
    """The seeds of the file; None without a file. Raises UserError for one that can't be read."""
    path = checkout.root / SEEDS
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        runs = [SeedRun(run["seed"], run["metrics"], run["mlflow_run_id"]) for run in content["runs"]]
        return Seeds(content["varies"], content["inputs"], tuple(content["seeds"]), tuple(runs), content["mlflow_run_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{SEEDS} is not a result of `mmalign run --seeds`: delete it, and run the command again") from error


def write_seeds(checkout: Checkout, seeds: Seeds) -> None:
    """Write the file, whole or not at all."""
    write_json(checkout.root / SEEDS, seeds.as_json())


def inputs_digest(checkout: Checkout, varies: Varies) -> str:
    """The digest of what the results in a checkout were made from, the same for all seeds. Raises UserError without such results."""
    stages = read_yaml(checkout.root / LOCK).get("stages", {})
    if any(name not in stages for name in STAGE_NAMES):
        raise UserError(f"{LOCK} lacks a stage, so there are no results to compare over seeds: run `mmalign run` first")
    made = [out["path"] for name in STAGE_NAMES for out in stages[name].get("outs", [])]
    content = {name: [_params(stages[name], varies), _sources(stages[name], made)] for name in STAGE_NAMES}
    return digest_bytes(json.dumps(content, sort_keys=True))


def _params(entry: Mapping[str, Any], varies: Varies) -> dict[str, Any]:
    flat = {key: value for file in entry.get("params", {}).values() for key, value in flatten(file).items()}
    return {key: value for key, value in flat.items() if key not in SEED_KEYS[varies]}


def _sources(entry: Mapping[str, Any], made: Sequence[str]) -> dict[str, str]:
    return {dep["path"]: dep["md5"] for dep in entry.get("deps", []) if "md5" in dep and dep["path"] not in made}


def is_stale(checkout: Checkout, seeds: Seeds) -> bool:
    """Whether the checkout's results were made from other data, settings or code than those of the file."""
    try:
        return inputs_digest(checkout, seeds.varies) != seeds.inputs
    except UserError:
        return True


def seed_run(checkout: Checkout, seed: int, varies: Varies) -> SeedRun:
    """The results that lie in a checkout. Raises UserError where there are none."""
    path = checkout.artifact("evaluate", "metrics.json")
    if not path.is_file():
        raise UserError(f"{path} is missing: run `mmalign run` first")
    metrics: Mapping[str, Number] = read_json(path)
    summary = read_json(checkout.summary) if checkout.summary.is_file() else {}
    return SeedRun(seed, {name: metrics.get(name) for name in compared(metrics, varies)}, summary.get("mlflow_run_id"))


def compared(metrics: Mapping[str, Number], varies: Varies) -> list[str]:
    """Names of the metrics that are compared over seeds. Those of a reward model that does not vary are none."""
    of_reward = ["reward.acc", "reward.acc_plus"] if varies == "reward_model_and_policy" else []
    rates = [f"policy.aligned.{name}" for name, *_ in POLICY_ROWS]
    names = [
        *rates,
        *(f"policy.aligned.accuracy.{name}" for name in CATEGORIES),
        "policy.win_rate",
        "policy.preference_accuracy",
        *of_reward,
    ]
    for part in part_names(metrics):
        names += [f"part.{part}.{name}" for name in (*rates, *of_reward)]
    return [name for name in names if metrics.get(name) is not None]


@dataclass(frozen=True)
class SpreadRow:
    """A metric as people read it: words and formatted numbers, in points of 100."""

    words: str
    mean: str
    deviation: str
    least: str
    greatest: str


@dataclass(frozen=True)
class SeedsSection:
    """The section of the page. `remark` is a sentence that stands in place of the rows, or before them."""

    title: str = ""
    rows: list[SpreadRow] = field(default_factory=list)
    remark: str = ""


def seeds_section(checkout: Checkout) -> SeedsSection | None:
    """The section on seeds; None without a file."""
    try:
        seeds = read_seeds(checkout)
    except UserError as error:
        return SeedsSection(remark=f"{error}.")
    if seeds is None:
        return None
    if is_stale(checkout, seeds):
        return SeedsSection(remark=_stale_sentence(seeds))
    missing = seeds.missing
    remark = f"{len(seeds.runs)} of {len(seeds.seeds)} seeds are finished; the same command continues." if missing else ""
    return SeedsSection(title(seeds), [spread_row(spread) for spread in seeds.spreads()], remark)


def _stale_sentence(seeds: Seeds) -> str:
    return f"{SEEDS} belongs to other data, settings or code than this run: `mmalign run --seeds {len(seeds.seeds)}` measures the spread again."


def title(seeds: Seeds) -> str:
    """What was measured, in words."""
    return f"{WORDS[seeds.varies]} trained with {len(seeds.runs)} seeds ({', '.join(str(run.seed) for run in seeds.runs)})"


def spread_row(spread: Spread) -> SpreadRow:
    """The row of a metric, in points of 100."""
    words, scale = _shown(spread.name)

    def shown(value: float | None) -> str:
        return number(None if value is None else scale * value, 1)

    return SpreadRow(words, shown(spread.mean), shown(spread.deviation), shown(spread.least), shown(spread.greatest))


def _shown(name: str) -> tuple[str, float]:
    """Words for a metric, and the factor that makes its values points of 100."""
    part = ""
    if name.startswith("part."):
        _, part, name = name.split(".", 2)
        part = f"{part} part: "
    for key, words, _, share in POLICY_ROWS:
        if name == f"policy.aligned.{key}":
            return part + words.removesuffix(" (of 100)"), 100.0 if share else 1.0
    others = {
        "policy.win_rate": "wins against the base",
        "policy.preference_accuracy": "pairs ordered as ranked",
        "reward.acc": "ACC of the reward model",
        "reward.acc_plus": "ACC+ of the reward model",
    }
    category = name.removeprefix("policy.aligned.accuracy.")
    return part + others.get(name, f"accuracy, {category}"), 100.0


def print_seeds(seeds: Seeds, console: Console | None = None) -> None:
    """Print the spreads as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title=title(seeds), title_style="bold")
    table.add_column("held-out queries, of 100")
    for column in ("mean", "sd", "least", "greatest"):
        table.add_column(column, justify="right")
    for spread in seeds.spreads():
        row = spread_row(spread)
        table.add_row(row.words, row.mean, row.deviation, row.least, row.greatest)
    (console or open_console()).print(table)
