"""Per-query results of registered versions in one context of evaluation: they lie with their version, and are computed where it has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.evaluation.fresh import FRESH, fresh_of
from components.evaluation.results import results_key
from components.registry.policy import ModelName
from components.registry.registry import Registry
from components.registry.versions import Version

Reevaluate = Callable[[ModelName, Path, Path], None]  # model, folder of its weights, table to write; that of the fresh part comes beside it


class ResultTables:
    """The results of versions of `name`. With `fresh`, the held-out queries have a fresh part, whose table is stored apart."""

    def __init__(self, scratch: Path, registry: Registry, name: ModelName, context: str, reevaluate: Reevaluate, *, fresh: bool) -> None:
        self._scratch, self._registry, self._name = scratch, registry, name
        self._context, self._reevaluate, self._has_fresh = context, reevaluate, fresh

    def of(self, version: Version, *, fresh: bool = False) -> Path:
        """A version's results, or those on the fresh part. Where the registry has none, both are computed now and stored there."""
        key = results_key(version.digest, self._context)
        folder = self._scratch / f"{self._name}-{version.number}"
        table = folder / "results" / f"{key}.parquet"
        wanted = fresh_of(table) if fresh else table
        if self._registry.results(version, _fresh_key(key) if fresh else key, wanted) is None:
            table.parent.mkdir(parents=True, exist_ok=True)
            self._reevaluate(self._name, self._registry.fetch(version, folder / "model"), table)
            self.store(version, table)
        return wanted

    def store(self, version: Version, table: Path) -> None:
        """Store a version's results with it, and those on the fresh part that lie beside them."""
        key = results_key(version.digest, self._context)
        self._registry.store_results(version, key, table)
        if self._has_fresh and fresh_of(table).is_file():
            self._registry.store_results(version, _fresh_key(key), fresh_of(table))


def _fresh_key(key: str) -> str:
    return f"{key}-{FRESH}"
