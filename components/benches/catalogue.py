"""The catalogue of benchmarks: what catalogue.yaml holds, checked."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

PATH = Path(__file__).with_name("catalogue.yaml")
UNKNOWN = "unknown"
HUNDRED = 100.0

Direction = Literal["up", "down"]


class Entry(BaseModel):
    """A part of the file. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(Entry):
    """One row of the paper's tables. `value` of `top` counts as 100 in the mean that it enters."""

    row: str
    metric: str
    direction: Direction
    top: Annotated[float, Field(gt=0)] = HUNDRED
    mean: str | None = None
    task: str
    value: str | None


class Benchmark(Entry):
    """One benchmark with its metrics."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    title: str
    dimension: str
    judge: str
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    data: str = "lmms-eval"
    licence: str = UNKNOWN
    tried: bool = False
    tried_on: str = ""

    @model_validator(mode="after")
    def _says_on_what(self) -> Self:
        if self.tried != bool(self.tried_on):
            raise ValueError(f"{self.name}: `tried` and `tried_on` go together")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """Its tasks, each once."""
        return tuple(dict.fromkeys(metric.task for metric in self.metrics))


class Mean(Entry):
    """A macro mean of the paper, and what of it is better."""

    dimension: str
    direction: Direction


class Catalogue(Entry):
    """The whole file."""

    dimensions: dict[str, str]
    means: dict[str, Mean]
    benchmarks: tuple[Benchmark, ...]

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        metrics = [metric for benchmark in self.benchmarks for metric in benchmark.metrics]
        for values in ([benchmark.name for benchmark in self.benchmarks], [metric.row for metric in metrics]):
            repeated = [value for value, count in Counter(values).items() if count > 1]
            if repeated:
                raise ValueError(f"{', '.join(repeated)} stands twice")
        dimensions = {benchmark.dimension for benchmark in self.benchmarks} | {mean.dimension for mean in self.means.values()}
        named = dimensions ^ self.dimensions.keys()
        means = {metric.mean for metric in metrics if metric.mean is not None} ^ self.means.keys()
        if named or means:
            raise ValueError(f"{', '.join(sorted(named | means))} is named on one side alone")
        for metric in metrics:
            if metric.mean is not None and metric.direction != self.means[metric.mean].direction:
                raise ValueError(f"{metric.row} goes {metric.direction}, and its mean {metric.mean} does not")
        return self

    def members(self, mean: str) -> tuple[Metric, ...]:
        """The metrics that a mean averages."""
        return tuple(metric for benchmark in self.benchmarks for metric in benchmark.metrics if metric.mean == mean)

    def rows(self) -> dict[str, tuple[Benchmark, Metric]]:
        """Each metric with its benchmark, by the name of its row."""
        return {metric.row: (benchmark, metric) for benchmark in self.benchmarks for metric in benchmark.metrics}


@cache
def catalogue() -> Catalogue:
    """The catalogue that the package ships."""
    return parse_catalogue(yaml.safe_load(PATH.read_text(encoding="utf-8")))


def parse_catalogue(values: Any) -> Catalogue:
    """The catalogue of the file's values. Raises pydantic's ValidationError."""
    return Catalogue.model_validate(values)
