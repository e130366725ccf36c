"""A checkout without problems for `mmalign doctor`, and helpers that cause problems."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from components.engine.ops import OP
from components.tracking import store

BASE = Path("data/base")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "PREFECT_API_URL", "CUDA_VISIBLE_DEVICES", "CXX"):
        monkeypatch.delenv(name, raising=False)
    yield
    store._failures.clear()
    store._connect.cache_clear()


@pytest.fixture
def whole(checkout: Path) -> Path:
    """A checkout with a lock file and a built op."""
    (checkout / "requirements.txt").write_text(f"numpy=={metadata.version('numpy')}\n")
    op = checkout / ".mmalign/torch_extensions" / OP / f"{OP}.so"
    op.parent.mkdir(parents=True)
    op.touch()
    return checkout


def settings_changed(root: Path, section: str, **values: object) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params[section] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def only_tools(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Set a PATH with only the programs `names`."""
    folder.mkdir()
    for name in names:
        program = shutil.which(name)
        assert program is not None
        (folder / name).symlink_to(program)
    monkeypatch.setenv("PATH", str(folder))
