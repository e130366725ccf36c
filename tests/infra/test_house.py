"""The checks of `make lint` that are the house's own, each on a small repository with one planted fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.house import glossary, lines, modules, sources

ROOT = Path(__file__).resolve().parents[2]
TABLE = 'STAGES = {"reward": "components.reward.stage:run"}\n'


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one stage and its table, in which all checks pass."""
    files = {
        "components/__init__.py": "",
        "components/stages.py": TABLE,
        "components/reward/__init__.py": "",
        "components/reward/stage.py": "def run() -> None:\n    pass\n",
        "tests/reward/test_stage.py": "def test_stage_runs() -> None:\n    assert True\n",
        **dict.fromkeys(modules.SETTINGS, ""),
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    monkeypatch.setattr(modules, "ROOT", tmp_path)
    monkeypatch.setattr(lines, "ROOT", tmp_path)
    assert modules.main() == 0
    assert glossary.main() == 0
    return tmp_path


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('import importlib\nimportlib.import_module("json")\n', "import_module imports by a string"),
        ('json = __import__("json")\n', "__import__ imports by a string"),
        ('NAME = "components.reward.stage"\n', "'components.reward.stage' names a module"),
        ('NAME = "components.reward.stage:run"\n', "'components.reward.stage:run' names a module"),
        ('COMMAND = "python -m components.reward.stage now"\n', "'components.reward.stage' names a module"),
    ],
)
def test_string_import_fails_the_check(repository: Path, text: str, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "components/reward/planted.py").write_text(text)
    assert modules.main() == 1
    assert fault in capsys.readouterr().out


def test_docstring_may_name_a_module(repository: Path) -> None:
    (repository / "components/reward/planted.py").write_text('"""components.reward.stage"""\n')
    assert modules.main() == 0


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ('STAGES = {"reward": "components.reward.missing:run"}\n', "there is no module components.reward.missing"),
        ('STAGES = {"reward": "components.reward.stage:walk"}\n', "components.reward.stage defines no walk"),
    ],
)
def test_table_entry_without_code_fails(repository: Path, table: str, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "components/stages.py").write_text(table)
    assert modules.main() == 1
    assert fault in capsys.readouterr().out


def test_settings_that_start_a_missing_module_fail(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "Makefile").write_text("run:\n\tpython -m components.reward.gone\n")
    assert modules.main() == 1
    assert "Makefile:2: there is no module components.reward.gone" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "def night() -> None: ...\n",
        "class NightParameters: ...\n",
        "found = 1\n",
        "def check(kept: int) -> None: ...\n",
        "def check() -> None:\n    for victim in (): ...\n",
        "import json as sentinel\n",
    ],
)
def test_word_of_the_left_column_fails(repository: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "components/reward/planted.py").write_text(text)
    assert glossary.main() == 1
    assert "components/reward/planted.py" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["notfound", "foundation", "placement", "turning_point", "held_out", "manifest", "factory", "telling"])
def test_word_that_only_looks_alike_passes(name: str) -> None:
    assert glossary.replacement(name) is None


@pytest.mark.parametrize("name", ["Found", "_found", "settle_ports", "MendedRun", "opinions", "towers", "CardLock"])
def test_word_in_any_case_is_replaced(name: str) -> None:
    assert glossary.replacement(name) is not None


@pytest.mark.parametrize("name", ["ground_truth_folder", "vision_tower", "run_vision_tower", "VisionTower", "data_card", "data_cards"])
def test_word_within_one_of_the_right_column_passes(name: str) -> None:
    assert glossary.replacement(name) is None


@pytest.mark.parametrize("name", ["tower_of_vision", "television_tower", "data_card_facts", "vision_towering_card"])
def test_word_beside_one_of_the_right_column_is_replaced(name: str) -> None:
    assert glossary.replacement(name) is not None


def test_file_name_of_the_left_column_fails(repository: Path) -> None:
    (repository / "components/reward/sentinel.py").write_text("")
    assert glossary.main() == 1


def test_long_test_name_fails_at_61_characters(repository: Path) -> None:
    test = repository / "tests/reward/test_stage.py"
    test.write_text(f"def {'test_' + 'x' * 55}() -> None: ...\n")
    assert glossary.main() == 0
    test.write_text(f"def {'test_' + 'x' * 56}() -> None: ...\n")
    assert glossary.main() == 1


def test_lines_are_counted_by_room(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "components/reward/stage.py").write_text("a = 1\n" * 10)
    lines.main()
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("reward"))
    assert row.split() == ["reward", "10", "2", "0.20"]


def test_upward_import_inside_a_function_breaks_the_contract(tmp_path: Path) -> None:
    files = subprocess.run(["git", "ls-files", "components", "flows", "demo"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in [*files.stdout.split(), "pyproject.toml"]:
        source = ROOT / name
        if source.is_file() and source.suffix in {".py", ".toml"}:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(source.read_bytes())
    linter = [str(Path(sys.executable).parent / "lint-imports"), "--no-logo", "--no-cache"]
    whole = subprocess.run(linter, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stdout
    planted = tmp_path / "components/reward/losses.py"
    planted.write_text(planted.read_text() + "\n\ndef later() -> None:\n    from components.evaluation import metrics  # noqa: F401\n")
    broken = subprocess.run(linter, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert broken.returncode == 1
    assert "components.reward is not allowed to import components.evaluation" in broken.stdout
