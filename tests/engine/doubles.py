"""A task that needs no model: it doubles numbers, in the batches that it gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.config.settings import Settings, parse_settings
from components.engine.inference_task import InferenceTask
from components.engine.ranks import Ranks

ROOT = Path(__file__).resolve().parents[2]


class Memory:
    """A store in memory that notes what is written together."""

    def __init__(self, **values: Any) -> None:
        self.values: dict[str, Any] = values
        self.writes: list[dict[str, Any]] = []

    def find(self, keys: Iterable[str]) -> dict[str, Any]:
        return {key: self.values[key] for key in keys if key in self.values}

    def store(self, values: Mapping[str, Any]) -> None:
        self.writes.append(dict(values))
        self.values.update(values)


@dataclass
class Doubles(InferenceTask):
    """Twice each number, by the planned batches; numbers count as many units as their size."""

    numbers: list[int]
    batches: list[list[int]]
    weights: int = 10
    seen: list[tuple[list[int], Ranks]] = field(default_factory=list)
    ended: int = 0
    planned: int = 0

    def plan(self) -> list[list[int]]:
        self.planned += 1
        return self.batches

    def compute(self, items: Sequence[int], ranks: Ranks) -> list[int]:
        self.seen.append((list(items), ranks))
        self.work.add(3 * len(items), 4 * len(items))
        return [2 * self.numbers[item] for item in items]

    def size(self, item: int) -> int:
        return self.numbers[item]

    def operations(self) -> float:
        return 2.0 * self.weights * self.work.tokens

    def finish(self) -> None:
        self.ended += 1


def doubles(store: Memory, numbers: list[int], batches: list[list[int]], keys: list[str] | None = None) -> Doubles:
    return Doubles("doubles", "unit", keys or [str(number) for number in numbers], store, numbers, batches)


def settings_of(**evaluate: Any) -> Settings:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["evaluate"] |= {"ranks": 1, "threads": 1, "zero_inference": False} | evaluate
    return parse_settings(values, "params.yaml")
