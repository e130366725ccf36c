"""Runs of the toy task in real torchrun processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml
from torch import Tensor

from components.checkout import Checkout
from components.config.settings import Settings, parse_settings
from components.engine.launch import TrainingOutcome, launch
from components.files import write_json

CHECKOUT = Path(__file__).resolve().parents[2]
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(CHECKOUT / ".mmalign" / "torch_extensions"))  # built once, not once a test


def toy_settings(**training: Any) -> Settings:
    values = yaml.safe_load((CHECKOUT / "params.yaml").read_text(encoding="utf-8"))
    values["training"] |= {"checkpoint_every": "4 steps", "max_grad_norm": 1.5, "weight_decay": 0.01} | training
    values["alignment"] |= {"epochs": 3, "learning_rate": 0.01, "warmup_share": 0.2, "max_steps": None}
    return parse_settings(values, "params.yaml")


def prepare(root: Path, **options: Any) -> Path:
    """A checkout root with DeepSpeed's settings and the toy's options."""
    shutil.copytree(CHECKOUT / "infra" / "deepspeed", root / "infra" / "deepspeed", dirs_exist_ok=True)
    spread_small_weights(root)
    write_json(root / "toy.json", options)
    return root


def spread_small_weights(root: Path) -> None:
    """Have ZeRO-3 partition weights of any size: by default it keeps those of a toy whole."""
    path = root / "infra/deepspeed/zero3.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    write_json(path, config)


def train(root: Path, settings: Settings, function: str = "tests.engine.toy:train") -> TrainingOutcome:
    return launch(function, settings, "align", Checkout(root), "key", root / "out")


def weights(root: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(root / "out" / "model.safetensors")


def launch_apart(root: Path, settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    """A launch in a process of its own, for tests that kill it."""
    write_json(root / "settings.json", settings.model_dump(mode="json", by_alias=True))
    code = (
        "import sys, json; from pathlib import Path; from components.config.settings import parse_settings;"
        "from components.checkout import Checkout; from components.engine.launch import launch;"
        "root = Path(sys.argv[1]); settings = parse_settings(json.loads((root / 'settings.json').read_text()), 'test');"
        "launch('tests.engine.toy:train', settings, 'align', Checkout(root), 'key', root / 'out')"
    )
    with log.open("wb") as stream:
        return subprocess.Popen([sys.executable, "-c", code, str(root)], cwd=CHECKOUT, stdout=stream, stderr=subprocess.STDOUT)


def curve(root: Path) -> list[dict[str, Any]]:
    (path,) = (root / ".mmalign" / "scratch" / "align").glob("*/curves.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a finished run of 18 steps: DeepSpeed ZeRO-2, two ranks."""
    root = prepare(tmp_path_factory.mktemp("undisturbed"))
    train(root, toy_settings())
    return root


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool], float], None]:
    """Wait until a condition holds; fail after so many seconds."""
    import time

    def wait(condition: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.02)

    return wait
