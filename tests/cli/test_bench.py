from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import ROOT, mmalign
from tests.settings import copy_settings


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with settings and two benchmarks, one of which fails."""
    copy_settings(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "benchmarks").mkdir()
    for name, code in {"__init__": "", "_shared": "", "quick": 0, "broken": 3}.items():
        body = f'"""Measures {name} things.\n\nMore."""\nimport sys\nif __name__ == "__main__":\n    print(sys.argv[1:])\n    sys.exit({code})\n'
        (tmp_path / f"benchmarks/{name}.py").write_text(body if isinstance(code, int) else "")
    return tmp_path


def test_bench_lists_and_runs_benchmarks_with_arguments(workspace: Path) -> None:
    listed = json.loads(mmalign(workspace, "bench", "list", "--json").stdout)
    assert listed["measurements"] == {"broken": "Measures broken things.", "quick": "Measures quick things."}
    assert len(listed["benchmarks"]) == 28
    completed = mmalign(workspace, "bench", "quick", "--repeats", "2", "--json")
    assert completed.returncode == 0
    assert completed.stdout.strip() == "['--repeats', '2', '--json']"
    assert mmalign(workspace, "bench", "broken").returncode == 3


def test_mistakes_are_one_sentence(workspace: Path) -> None:
    for arguments, sentence in (
        (("quik",), "there is no such benchmark; there are aggregate, list, measure, policy, rate, reward, setup, broken, quick"),
        (("rate", "--set", "model.base=nowhere"), "mmalign model fetch"),
    ):
        completed = mmalign(workspace, "bench", *arguments)
        assert completed.returncode == 2
        assert sentence in completed.stderr
        assert completed.stderr.count("\n") == 1


@pytest.mark.slow
def test_measured_rate_is_cached_and_used_by_plan(workspace: Path, base: Path) -> None:
    shutil.copytree(base, workspace / "data/base")
    shutil.copytree(ROOT / "data/preferences", workspace / "data/preferences")
    completed = mmalign(workspace, "bench", "rate", "--json")
    assert completed.returncode == 0, completed.stderr
    measured = json.loads(completed.stdout)
    assert measured["tokens_per_second"] > 0
    assert measured["layers"] == measured["of_layers"] == 3
    plan = json.loads(mmalign(workspace, "plan", "--memory", "--json").stdout)
    queries, tokens = plan["workload"]["queries"], plan["workload"]["tree_tokens"]
    assert plan["stages"]["align"]["seconds"] == pytest.approx(queries * tokens * 2 / 2 / measured["tokens_per_second"])
    other = json.loads(mmalign(workspace, "plan", "--memory", "--json", "--set", "training.precision=bf16").stdout)
    assert other["stages"]["align"]["seconds"] is None


def test_help_of_commands_imports_nothing_heavy() -> None:
    for command in (["bench"], ["bench", "reward"], ["compare"], ["model"], ["model", "fetch"], ["configure"], ["plan"]):
        script = (
            "import sys\nfrom components.cli.main import main\n"
            f"sys.argv = ['mmalign', *{command!r}, '--help']\ncode = main()\n"
            "print(code, *sorted(set(sys.modules) & {'torch', 'transformers', 'huggingface_hub', 'numpy', 'pandas', 'mlflow', 'dvc'}))"
        )
        shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        assert shown.splitlines()[-1] == "0"
