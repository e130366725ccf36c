"""The two engines of `make fuzz`: hypothesis, which changes good files, and atheris, which follows what the parser's code reaches."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky, HypothesisWarning

from tests.fuzz.targets import CORPUS, Target, target

EXAMPLES = 50  # of one round of hypothesis; each round has a seed of its own
SLOWEST = 120  # seconds that atheris allows an input
LONGEST = 2048  # bytes of an input that is stored
GUIDED = (sys.executable, "-m", "tests.fuzz.guided")


def by_hypothesis(name: str, seconds: float, first_seed: int) -> tuple[int, str | None]:
    """Inputs tried in this time, and the first finding's trace with its smallest input."""
    warnings.simplefilter("ignore", HypothesisWarning)  # on the length of an input
    tried, until, number = 0, time.monotonic() + seconds, first_seed
    while not tried or time.monotonic() < until:
        count, finding = examples(target(name), EXAMPLES, number, until)
        tried += count
        if finding is not None:
            return tried, finding
        number += 1
    return tried, None


def examples(tried_target: Target, most: int, number: int, until: float | None = None) -> tuple[int, str | None]:
    """At most so many inputs from one seed: how many were tried, and the first finding."""
    tried = 0

    @seed(number)
    @settings(
        max_examples=most, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink)
    )
    @given(tried_target.inputs)
    def parse(content: bytes) -> None:
        nonlocal tried
        if tried and until is not None and time.monotonic() > until:
            return
        tried += 1
        tried_target.run(content)

    try:
        parse()
    except Flaky:  # a finding whose repetition came after `until`
        return tried, traceback.format_exc() if until is None else None
    except Exception:  # noqa: BLE001 -- a finding of any kind
        return tried, traceback.format_exc()
    return tried, None


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
