"""The fork server on a small project: what is noticed, what is not, what never ends; in a process of its own, since pytest's has threads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
from pathlib import Path
from tests.mutation.child import Task
from tests.mutation.server import Job, Server

root, folder = Path(sys.argv[1]), Path(sys.argv[2])
source = (root / "room/sums.py").read_text()
edits = {"noticed": ("a + b", "a - b"), "survives": ("limit=9", "limit=10"), "endless": ("number += 1", "pass"), "broken": ("import math", "import mat")}
result = {}
with Server(root, folder, ["room", "tests"], 2) as server:
    server.import_libraries(["pytest"])
    clean = Task(("tests/test_sums.py",), watched=("room/sums.py",))
    for _, outcome in server.run([Job(clean)]):
        server.import_libraries(outcome.result["libraries"])
        result["clean"] = outcome.result | {"code": outcome.code, "libraries": "math" in outcome.result["libraries"]}
    tests = ("tests/test_sums.py::test_count", "tests/test_sums.py::test_total", "tests/test_sums.py::test_sum")
    task = Task(("tests/test_sums.py",), tests, cpu_seconds=2)
    jobs = [Job(task, name, "room/sums.py", source.replace(*edit)) for name, edit in edits.items()]
    for job, outcome in server.run(jobs):
        result[job.key] = [outcome.code, outcome.timed_out, outcome.result.get("failed")]
    result["restored"] = all((folder / f"worker-{n}/room/sums.py").read_text() == source for n in range(2))
    result["loaded"] = [name for name in sys.modules if name.startswith("room")]
print(json.dumps(result))
"""
SUMS = """import math

def total(a, b, limit=9):
    return min(a + b, math.inf)

def count(end):
    number = 0
    while number < end:
        number += 1
    return number
"""
TESTS = """import subprocess, sys
import pytest
from room.sums import count, total

@pytest.fixture(scope="module")
def five():
    return total(2, 3)

def test_sum(five):
    assert five == 5

def test_count():
    assert count(3) == 3

def test_total(five):
    assert five == 5
    assert subprocess.run([sys.executable, "-c", "from room.sums import total; print(total(2, 2))"], capture_output=True).stdout == b"4\\n"
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    root = tmp_path_factory.mktemp("project")
    for path, text in {
        "room/__init__.py": "",
        "room/sums.py": SUMS,
        "tests/test_sums.py": TESTS,
        "pyproject.toml": "[tool.pytest.ini_options]\n",
    }.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    command = [sys.executable, "-c", SCRIPT, str(root), str(root.parent / "copies")]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    result: dict[str, object] = json.loads(completed.stdout)
    return result


def test_noticed_mutant_names_the_first_test_in_the_chosen_order(outcomes: dict[str, object]) -> None:
    assert outcomes["noticed"] == [1, False, "tests/test_sums.py::test_total"]


def test_mutant_that_changes_nothing_survives(outcomes: dict[str, object]) -> None:
    assert outcomes["survives"] == [0, False, ""]


def test_endless_mutant_is_ended_by_its_limit(outcomes: dict[str, object]) -> None:
    assert outcomes["endless"] == [-24, True, None]


def test_mutant_that_can_not_be_imported_is_killed(outcomes: dict[str, object]) -> None:
    code, timed_out, _ = outcomes["broken"]  # type: ignore[misc]
    assert code not in {0, 5}
    assert not timed_out


def test_sources_are_restored_and_never_imported_by_the_parent(outcomes: dict[str, object]) -> None:
    assert outcomes["restored"] is True
    assert outcomes["loaded"] == []


def test_clean_run_counts_a_wider_fixture_for_each_of_its_tests(outcomes: dict[str, object]) -> None:
    clean = outcomes["clean"]
    assert isinstance(clean, dict)
    assert (clean["code"], clean["failed"], clean["libraries"]) == (0, "", True)
    lines = {test.rpartition("::")[2]: entry["lines"].get("room/sums.py", []) for test, entry in clean["tests"].items()}
    assert 4 in lines["test_sum"]
    assert 4 in lines["test_total"]
    assert lines["test_count"] == [7, 8, 9, 10]
    assert "room/sums.py" in clean["loaded"]
