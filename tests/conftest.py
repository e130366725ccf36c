"""Shared fixtures: the bundled data, and a small random checkpoint of the same family."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
# Products of tiny tensors gain nothing from a second thread: threads of two workers wait for each other, awake, on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As the command does: what tests import lives on, and Python's default collects it again and again.
gc.set_threshold(100_000, 50, 100)
# Tests use their own slots: they neither take nor await a GPU or CPU slot of another training on this machine.
os.environ["MMALIGN_SLOTS"] = tempfile.mkdtemp(prefix="mmalign-slots-")


def pytest_unconfigure() -> None:
    """Remove the slots of this worker. (A worker ends without `atexit`.)"""
    shutil.rmtree(os.environ["MMALIGN_SLOTS"], ignore_errors=True)


# Folders whose files take minutes: they run first, so that no worker runs them last.
LONGEST = ("recipe", "engine", "tracking", "storage")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest folders first; the order within a folder stays."""
    items.sort(key=lambda item: LONGEST.index(folder) if (folder := item.path.parent.name) in LONGEST else len(LONGEST))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Return to one thread after a test whose stage set its own number."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> Path:
    """The bundled data folder. The first worker that needs it pulls it from the bundled remote."""
    (ROOT / ".mmalign").mkdir(exist_ok=True)
    with FileLock(ROOT / ".mmalign" / "tests-data.lock"):
        if not all((ROOT / "data" / name).is_file() for name in ("base/config.json", "bench/mm_reward_bench.jsonl")):
            subprocess.run(["dvc", "pull", "data.dvc"], cwd=ROOT, check=True)
    return ROOT / "data"


@pytest.fixture(scope="session")
def base(data: Path) -> Path:
    """The bundled base model."""
    return data / "base"


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint in its own folder."""
    from tests.tiny import save_checkpoint

    return save_checkpoint(tmp_path_factory.mktemp("tiny-base"))


@pytest.fixture(scope="session")
def tiny_media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The media folder of the tiny queries."""
    from tests.tiny import save_media

    folder = tmp_path_factory.mktemp("tiny-media")
    save_media(folder)
    return folder


@pytest.fixture(scope="module")  # playwright runs an event loop until it ends
def browser() -> Iterator[Any]:
    """A real Chromium, without a screen."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
        executable = next((path for name in names if (path := shutil.which(name))), playwright.chromium.executable_path)
        if not Path(executable).is_file():
            pytest.skip(f"no browser: none of {', '.join(names)} is on PATH, and playwright has none of its own")
        # Chromium's sandbox can't be set up by root.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()
