"""What a forked child does: it becomes a pytest process whose project is a private copy, runs some tests, and leaves a result file.

- A recording child runs a whole test file on unchanged sources and notes for each test its CPU time and the source lines that it reaches. Lines
  that a fixture of a wider scope reaches count for every test that uses the fixture. Python 3.11 has no sys.monitoring, hence sys.settrace.
- A mutant's child runs chosen tests in the order in which they are listed, and stops at the first failure.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

MEMORY_BYTES = 8 * 2**30  # beyond the parent's own: a mutant that asks for more is ended, not the machine
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "MPLBACKEND": "agg",
    "HF_HUB_OFFLINE": "1",  # as tests/conftest.py, which comes too late for what the parent has imported
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
}
ARGUMENTS = ["-q", "-x", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow"]


@dataclass(frozen=True)
class Task:
    """Tests for one child. Without `tests` it records all of `files`; `watched` are the sources to trace then."""

    files: tuple[str, ...]
    tests: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()
    cpu_seconds: int = 900


def run(task: Task, tree: Path, scratch: Path) -> NoReturn:
    """Run the task in the copy of the checkout at `tree`; never returns. The result is `scratch`/result.json, the output `scratch`/output."""
    code = 70
    try:
        _enter(tree, scratch, task.cpu_seconds)
        plugin = Recorder(tree, task.watched) if task.watched else Chooser(task.tests)
        options = [*ARGUMENTS, f"--basetemp={scratch / 'base'}", f"--rootdir={tree}", f"--config-file={tree / 'pyproject.toml'}"]
        if "hypothesis" in sys.modules:
            options.append("--hypothesis-seed=0")
        code = int(pytest.main([*options, *task.files], plugins=[plugin]))
        result = plugin.result()
        (scratch / "result.json").write_text(json.dumps(result))
    except BaseException:  # noqa: BLE001 -- nothing of the parent may go on in the child
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _enter(tree: Path, scratch: Path, cpu_seconds: int) -> None:
    """Leave the parent's session, files, folder and modules."""
    os.setsid()
    output = os.open(scratch / "output", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    # Above the soft limit the kernel sends SIGXCPU, at the hard one SIGKILL. Both hold for each process of the test.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + MEMORY_BYTES,) * 2)
    os.chdir(tree)
    temporary = scratch / "tmp"
    temporary.mkdir()
    tempfile.tempdir = str(temporary)
    os.environ.update(TMPDIR=str(temporary), PYTHONPATH=str(tree))
    sys.path[:] = [str(tree), *(entry for entry in sys.path if Path(entry or ".").resolve() not in (tree, Path(__file__).parents[2]))]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]


class Chooser:
    """Keeps the listed tests, in the listed order; notes which failed first."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._order = {test: number for number, test in enumerate(tests)}
        self._failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self._order]
        # A mutant may rename the tests that are made from its values: then all of the files are run.
        items[:] = sorted(chosen, key=lambda item: self._order[item.nodeid]) if len(chosen) == len(self._order) else items

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed = self._failed or report.nodeid

    def result(self) -> dict[str, Any]:
        return {"failed": self._failed}


class Recorder:
    """CPU time and reached lines of every test, the project's files that were loaded, and the libraries."""

    def __init__(self, tree: Path, watched: Sequence[str]) -> None:
        self._tree = str(tree)
        self._watched = {str(tree / path): path for path in watched}
        self._lines: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)  # by the id of a test, or of a fixture
        self._fixtures: dict[str, list[str]] = {}
        self._seconds: dict[str, float] = {}
        self._current = self._lines[""]
        self._failed = ""
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "call":
            return self._trace if frame.f_code.co_filename in self._watched else None
        if event == "line":
            self._current.add((frame.f_code.co_filename, frame.f_lineno))
        return self._trace

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._fixtures[item.nodeid] = list(getattr(item, "fixturenames", ()))
        self._current = self._lines[item.nodeid]
        start = time.process_time()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.process_time() - start

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        outer = self._current
        if fixturedef.scope != "function":
            self._current = self._lines[f"fixture {fixturedef.argname}"]
        try:
            return (yield)
        finally:
            self._current = outer

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed = self._failed or report.nodeid

    def result(self) -> dict[str, Any]:
        sys.settrace(None)
        tests = {}
        for test, seconds in self._seconds.items():
            reached = set(self._lines[test]).union(*(self._lines.get(f"fixture {name}", ()) for name in self._fixtures[test]))
            lines: defaultdict[str, list[int]] = defaultdict(list)
            for path, line in sorted(reached):
                lines[self._watched[path]].append(line)
            tests[test] = {"seconds": seconds, "lines": lines}
        origins = {name: getattr(getattr(module, "__spec__", None), "origin", None) for name, module in list(sys.modules.items())}
        # In the order in which they were first imported.
        libraries = [name for name, origin in origins.items() if origin and not origin.startswith(self._tree) and name != "__main__"]
        loaded = [origin.removeprefix(f"{self._tree}/") for origin in origins.values() if origin and origin.startswith(self._tree)]
        return {"failed": self._failed, "tests": tests, "libraries": libraries, "loaded": loaded}
