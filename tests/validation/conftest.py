"""A checkout with preference rows, small pictures and the tiny base, on which the real stage runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.engine.result import StageResult
from components.preferences.record import Query, read_queries
from tests.conftest import ROOT

Row = dict[str, Any]
OUT = Path("artifacts/validate")


@dataclass
class DataCheckout:
    """The root of a checkout, and shorthands for what tests do with one."""

    root: Path
    base: Path

    @property
    def preferences(self) -> Path:
        return self.root / "data/preferences"

    def write(self, name: str, rows: list[Row | str | bytes]) -> None:
        """Write a file of rows: objects, or raw lines."""
        lines = [row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode() for row in rows]
        (self.preferences / name).write_bytes(b"".join(line + b"\n" for line in lines))

    def picture(self, name: str, seed: int, size: tuple[int, int] = (32, 32)) -> str:
        path = self.preferences / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        return name

    def row(self, number: int, **changes: Any) -> Row:
        """A good row about a picture of its own; `...` removes a field."""
        values: Row = {
            "id": f"row-{number}",
            "question": f"What is in picture {number}?",
            "answer": "A dog.",
            "image": self.picture(f"short/{number}.png", number),
            "video": "",
            "models_output": ["A dog.", "A cat that sleeps.", "Nothing."],
            "faithfulness": [5, 2, 1],
            "helpfulness": [5, 2, 1],
            "ethical": [5, 5, 5],
            "final_ranking": [1, 2, 2],
            "score_reasons": ["Right.", "It is a dog.", "It sees nothing."],
            "ranking_reason": "",
            "category": "short",
        }
        return {key: value for key, value in (values | changes).items() if value is not ...}

    def settings(self, **sections: dict[str, Any]) -> Settings:
        settings = load_settings(ROOT / "params.yaml")
        changes = {"model": {"base": self.base}} | sections
        names = {"validate": "validate_"}
        updates = {
            names.get(name, name): getattr(settings, names.get(name, name)).model_copy(update=values) for name, values in changes.items()
        }
        return settings.model_copy(update=updates)

    def run(self, **sections: dict[str, Any]) -> StageResult:
        from components.validation.stage import run

        return run(self.settings(**sections), Checkout(self.root))

    def queries(self, split: str) -> list[Query]:
        return read_queries(self.root / OUT / split / "queries.parquet")

    def quarantine(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / OUT / "quarantine.jsonl").read_text().splitlines()]


@pytest.fixture
def new_checkout(tmp_path: Path, tiny_base: Path) -> Callable[[str], DataCheckout]:
    def make(name: str) -> DataCheckout:
        checkout = DataCheckout(tmp_path / name, tiny_base)
        checkout.preferences.mkdir(parents=True)
        return checkout

    return make


@pytest.fixture
def checkout(new_checkout: Callable[[str], DataCheckout]) -> DataCheckout:
    return new_checkout("checkout")
