from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from components.checkout import Checkout
from components.cli.run.configure import apply
from components.cli.run.plan_memory import render
from components.config.settings import load_settings
from components.rehearsal.devices import named_device
from components.rehearsal.ledger import ledger
from components.rehearsal.plan import make_plan
from components.rehearsal.sizes import size
from components.stages import STAGE_NAMES
from tests.checkout import ROOT, mmalign
from tests.settings import copy_settings

DOCUMENT = ROOT / "docs/real-models.md"
# The plans that docs/real-models.md shows: a profile, settings over it, and a device.
STAGES = ("training", "critique", "reference", "evaluate")
SHOWN = {
    "profile": ("llava-ov-7b", [], "h100"),
    "small device": ("llava-ov-7b", [], "a10"),
    "four gpus": (
        "llava-ov-7b",
        [*(f"{stage}.ranks=4" for stage in STAGES), "training.zero_stage=2", "training.gradient_checkpointing=none"],
        "h100",
    ),
    "lora": ("llava-ov-7b", [*(f"{stage}.ranks=1" for stage in STAGES), "model.lora.rank=16", "training.zero_stage=2"], "l40s"),
}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with the shipped settings, profiles and engine files, and no model."""
    copy_settings(tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    shutil.copytree(ROOT / "infra/deepspeed", tmp_path / "infra/deepspeed")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    return tmp_path


def shown(workspace: Path, profile: str, assignments: list[str], device: str) -> str:
    """The plan as the command prints it on a terminal of 100 columns."""
    apply(Checkout(workspace), profile, assignments)
    written = io.StringIO()
    plan = make_plan(load_settings(workspace / "params.yaml"), Checkout(workspace), named_device(device))
    volumes = ledger(plan, Checkout(workspace), STAGE_NAMES, None)
    Console(file=written, width=100, highlight=False).print(render(plan, volumes, workspace, here=False))
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


@pytest.mark.parametrize("name", SHOWN)
def test_documented_plans_equal_printed_ones(workspace: Path, name: str) -> None:
    opening = f"<!-- plan: {name} -->\n```\n"
    text = DOCUMENT.read_text()
    assert opening in text
    block = text.partition(opening)[2].partition("\n```")[0]
    # `python -m tests.cli.test_plan_memory` writes new blocks
    assert block == shown(workspace, *SHOWN[name])


def test_plan_needs_no_gpu_weights_or_torch(workspace: Path) -> None:
    apply(Checkout(workspace), "qwen2.5-vl-7b", [])
    script = (
        "import shutil, sys\nfrom types import SimpleNamespace\nfrom components.cli.main import main\n"
        "shutil.disk_usage = lambda _: SimpleNamespace(free=10**13)\n"
        "sys.argv = ['mmalign', 'plan', '--memory']\ncode = main()\n"
        "print(code, *sorted(set(sys.modules) & {'torch', 'transformers', 'dvc', 'pandas'}))"
    )
    environment = {"PATH": "/nowhere", "PYTHONPATH": str(ROOT)}
    completed = subprocess.run([sys.executable, "-c", script], cwd=workspace, env=environment, capture_output=True, text=True, check=True)
    assert completed.stdout.splitlines()[-1] == "0"
    assert "no GPU is visible here" in completed.stdout
    assert "no rate measured: mmalign bench rate" in completed.stdout
    assert all(len(line) <= 80 for line in completed.stdout.splitlines())


def test_oversized_plan_exits_with_1_and_changes(workspace: Path) -> None:
    apply(Checkout(workspace), "llava-ov-7b", ["training.gradient_checkpointing=none"])
    completed = mmalign(workspace, "plan", "--memory", "--device", "a100-40gb", "--json")
    assert completed.returncode == 1
    values = json.loads(completed.stdout)
    assert values["stages"]["align"]["fits"] is False
    assert "training.gradient_checkpointing=all" in values["changes"]
    assert mmalign(workspace, "plan", "--memory", "--device", "h200").returncode == 0


def test_planned_setting_is_not_written(workspace: Path) -> None:
    before = (workspace / "params.yaml").read_bytes()
    model = json.loads(
        mmalign(workspace, "plan", "--memory", "--device", "h100", "--set", "model.base=data/models/InternVL3-1B-hf", "--json").stdout
    )["model"]
    assert model["parameters"]["total"] == 938_193_024
    assert (workspace / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--memory", "--device", "h1000"), "unknown device; the devices are cpu, rtx-4090"),
        (("--device", "h100"), "--device goes with --memory only"),
        (("--memory",), "model.base data/base has no config.json"),
    ],
)
def test_mistakes_are_one_sentence(workspace: Path, arguments: tuple[str, ...], sentence: str) -> None:
    completed = mmalign(workspace, "plan", *arguments)
    assert completed.returncode == 2
    assert sentence in completed.stderr
    assert completed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("count", "words"), [(0, "–"), (1200, "1 kB"), (3.4e6, "3 MB"), (1.25e9, "1.2 GB"), (84.2e9, "84 GB"), (3e12, "3.0 TB")]
)
def test_sizes_use_readable_units(count: float, words: str) -> None:
    assert size(count) == words


def write_document(text: str) -> str:
    """`text` of the document with new plans."""
    import tempfile

    for name, values in SHOWN.items():
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            copy_settings(here)
            shutil.copytree(ROOT / "profiles", here / "profiles")
            shutil.copytree(ROOT / "infra/deepspeed", here / "infra/deepspeed")
            opening = f"<!-- plan: {name} -->\n```\n"
            before, _, rest = text.partition(opening)
            text = before + opening + shown(here, *values) + "\n```" + rest.partition("\n```")[2]
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(write_document(DOCUMENT.read_text()))
