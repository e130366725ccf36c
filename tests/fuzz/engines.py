"""The two engines of `make fuzz`: hypothesis, which changes good files, and atheris, which follows what the parser's code reaches.

Each tries a target in a process of its own, since a parser may also hang, or end its process by a signal.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import CORPUS, Target, target

EXAMPLES = 50  # of one round of hypothesis; each round has a seed of its own
HANGING_SECONDS = 60  # of CPU time without a new input, after which the process is killed
BLOCKED_SECONDS = 600  # of any time: a process that waits takes none of a CPU, and neither does one that others leave none to
SLOWEST = 120  # seconds that atheris allows an input
LONGEST = 2048  # bytes of an input that is stored
STRUCTURED, GUIDED = ((sys.executable, "-m", f"tests.fuzz.{name}") for name in ("structured", "guided"))
INPUT, RESULT = "input", "result.json"  # of the process of hypothesis: what it is trying, and what came of it


@dataclass
class Finding:
    """The smallest input that failed, and its trace."""

    content: bytes
    trace: str

    def __str__(self) -> str:
        return f"{self.trace}\nFailing input: {self.content!r}"


def by_hypothesis(name: str, seconds: float, first_seed: int) -> tuple[int, str | None]:
    """Inputs tried in this time, and the first finding's trace with its smallest input."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        words = folder / "words"
        with words.open("wb") as stream:
            process = subprocess.Popen([*STRUCTURED, name, str(seconds), str(first_seed), path], stdout=stream, stderr=stream)
        killed = _watch(process, folder / INPUT)
        if process.returncode == 0:
            result = json.loads((folder / RESULT).read_text())
            return result["tried"], result["finding"]
        content = (folder / INPUT).read_bytes() if (folder / INPUT).is_file() else b""
        end = "hangs on an input" if killed else f"ends with {process.returncode}"
        return 0, f"{words.read_text(errors='replace')}\nThe process {end}.\nFailing input: {content!r}"


def _watch(process: subprocess.Popen[bytes], file: Path) -> bool:
    """Wait for a process, and kill it where it hangs on an input; whether it was killed."""
    computing = psutil.Process(process.pid)
    input_time, spent = 0.0, 0.0
    while True:
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            written = file.stat().st_mtime if file.is_file() else time.time()
            if written != input_time:
                input_time, spent = written, _cpu_seconds(computing)
            if _cpu_seconds(computing) - spent < HANGING_SECONDS and time.time() - written < BLOCKED_SECONDS:
                continue
            process.kill()
            process.wait()
            return True
        return False


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and of those that it has waited for; 0 where it has ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def examples(tried_target: Target, most: int, number: int, until: float | None = None) -> tuple[int, Finding | None]:
    """At most so many inputs from one seed, until a time of time.monotonic: how many were tried, and the smallest finding."""
    tried = 0
    smallest: Finding | None = None

    @seed(number)
    @settings(
        max_examples=most, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink)
    )
    @given(tried_target.inputs)
    def parse(content: bytes) -> None:
        nonlocal tried, smallest
        if tried and until is not None and time.monotonic() > until:
            return
        tried += 1
        try:
            tried_target.run(content)
        except Exception:
            if smallest is None or len(content) <= len(smallest.content):
                smallest = Finding(content, traceback.format_exc())
            raise

    try:
        parse()
    except Exception:
        if smallest is None:  # of hypothesis itself
            raise
    return tried, smallest


def by_atheris(name: str, seconds: float, first_seed: int, *, grow: bool = False) -> tuple[int, str | None]:
    """As by hypothesis, in a process whose code counts what it reaches. `grow` adds the inputs that reached more to the corpus."""
    if importlib.util.find_spec("atheris") is None:
        sys.exit("make fuzz: atheris is not installed: run `uv pip install atheris` in this environment, or leave --engine out")
    with tempfile.TemporaryDirectory() as folder:
        fresh, good = Path(folder, "fresh"), Path(folder, "good")
        for path in (fresh, good):
            path.mkdir()
        for index, content in enumerate(target(name).good):
            (good / str(index)).write_bytes(content)
        folders = [str(path) for path in (fresh, good, CORPUS / name) if path.is_dir()]
        command = [*GUIDED, name, f"-max_total_time={round(seconds)}", f"-seed={first_seed + 1}"]
        command += [f"-timeout={SLOWEST}", "-rss_limit_mb=8192", "-print_final_stats=1", f"-artifact_prefix={folder}/", *folders]
        ended = subprocess.run(command, capture_output=True, check=False)
        words = ended.stdout.decode(errors="replace") + ended.stderr.decode(errors="replace")
        inputs = [path for path in Path(folder).iterdir() if path.is_file()]
        count = re.search(r"number_of_executed_units: (\d+)", words) or re.search(r"#(\d+)", words)
        finding = None
        if ended.returncode or inputs:
            shown = "".join(f"\nFailing input: {path.read_bytes()!r}" for path in inputs)
            finding = "\n".join(words.splitlines()[-60:]) + shown
        elif grow:
            (CORPUS / name).mkdir(exist_ok=True)
            merge = ["-merge=1", "-use_counters=0", f"-max_len={LONGEST}", str(CORPUS / name), str(fresh)]
            subprocess.run([*GUIDED, name, *merge], capture_output=True, check=True)
        return int(count[1]) if count else 0, finding


ENGINES: Mapping[str, Callable[..., tuple[int, str | None]]] = {"hypothesis": by_hypothesis, "atheris": by_atheris}
