"""A process group of one rank inside the test's own process: loops and backends without torchrun."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from components.checkout import Checkout
from components.config.settings import Settings
from components.engine.backends import Ddp, set_up_backend
from components.engine.checkpoints import Checkpoint
from components.engine.loop import Loop
from tests.engine.conftest import prepare, toy_settings
from tests.engine.toy import HookedTask, ToyTask


@contextmanager
def single_rank(**training: Any) -> Iterator[Ddp]:
    """DDP on this process alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        backend = set_up_backend(settings_of(**training).training, Checkout(Path()))
        assert isinstance(backend, Ddp)
        try:
            yield backend
        finally:
            distributed.destroy_process_group()


def settings_of(**training: Any) -> Settings:
    return toy_settings(**{"engine": "ddp", "ranks": 1} | training)


def toy_loop(
    root: Path, backend: Ddp, *, kind: type[ToyTask] = ToyTask, resumed: Checkpoint | None = None, **options: Any
) -> tuple[Loop, ToyTask]:
    """A loop over the toy's 18 steps in `root`, and its task."""
    settings = settings_of(**options.pop("training", {}))
    task = kind(settings, prepare(root, **{"stop_at": -1} | options if kind is HookedTask else options))
    (root / "scratch").mkdir(exist_ok=True)
    return Loop(task, backend, settings.training, settings.alignment, root / "scratch", resumed), task
