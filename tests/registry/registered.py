"""A checkout with an aligned policy in DVC's cache, its registry, and what registering leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.checkout import Checkout
from components.registry.registry import Registry
from components.registry.versions import Version
from tests.tiny import save_checkpoint
from tests.tracking.dvc import keep_in_dvc
from tests.tracking.test_server import server  # noqa: F401 -- a fixture

MODEL = Path("artifacts/align/model")


@pytest.fixture
def root(checkout: Path, tiny_base: Path) -> Path:
    """A checkout with a base, an aligned policy in DVC's cache and in dvc.lock, and nothing registered."""
    shutil.copytree(tiny_base, checkout / "data/base")
    save_checkpoint(checkout / MODEL, seed=1)
    keep_in_dvc(checkout, "align", MODEL)
    return checkout


@pytest.fixture
def registry(root: Path) -> Registry:
    return Registry(Checkout(root))


def register(registry: Registry, *, whole: bool = False, tags: dict[str, str] | None = None) -> Version:
    return registry.register("mm-policy", registry.checkout.root / MODEL, whole=whole, run_id=None, tags=tags or {})


def stored(root: Path, version: Version) -> Path:
    return root / "mlruns/models" / version.model_id


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def lose_weights(root: Path) -> None:
    """Take the weights out of the checkout and of DVC's cache."""
    shutil.rmtree(root / MODEL)
    shutil.rmtree(root / ".dvc/cache")


def results(folder: Path, *, right: bool = True) -> Path:
    path = folder / "table.parquet"
    pq.write_table(pa.table({"id": ["q1"], "right": [right]}), path)
    return path
