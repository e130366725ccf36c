"""What a rehearsal says of memory against what the stages then use, by a sampler of the test's own, on three bases; and a limit that is real.

The bases: the bundled one; one whose vocabulary of 152,064 dominates; one whose pictures do, at their cameras' sizes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from benchmarks._slice import Slice, make_slice, write_rows, write_slice
from tests.checkout import ROOT
from tests.families.checkpoints import BUILDERS
from tests.shapes.photographs import save_photographs
from tests.tiny import save_checkpoint

VOCABULARY = 152_064
STAGES = ("reward", "critique", "reference", "align", "evaluate")
ALLOWED_BYTES, ALLOWED_SHARE = 50e6, 0.15
LONGEST_SECONDS = 300
SMALL: dict[str, dict[str, Any]] = {
    "reward": {"epochs": 1, "queries_per_step": 8},
    "alignment": {"epochs": 1, "queries_per_step": 8},
    "critique": {"max_new_tokens": 16},
    "evaluate": {"judges": ["rules", "reward_model"], "max_new_tokens": 16, "samples": 2},
}
PHOTOGRAPHS = ("engine.jpg", "galaxies.jpg", "portrait.jpg", "camera.jpg")


class Sampler:
    """The most PSS of a rank by stage, of all processes that work below a folder."""

    def __init__(self, root: Path) -> None:
        self.peak: dict[str, int] = defaultdict(int)
        self._root, self._ended = root, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        ranks: dict[int, tuple[psutil.Process, str]] = {}
        while not self._ended.wait(0.1):
            for pid in psutil.pids():
                if pid not in ranks:
                    stage = self._stage(pid)
                    if stage is not None:
                        ranks[pid] = (psutil.Process(pid), stage)
            for pid, (process, stage) in list(ranks.items()):
                try:
                    self.peak[stage] = max(self.peak[stage], process.memory_full_info().pss)
                except psutil.Error:
                    del ranks[pid]

    def _stage(self, pid: int) -> str | None:
        try:
            process = psutil.Process(pid)
            line = process.cmdline()
            if any(word.startswith("--nproc-per-node") for word in line) or process.cwd() != str(self._root):
                return None  # torchrun names the ranks' module too
            if "components.engine.worker" in line:
                return line[line.index("--stage") + 1]
            # A stage of one rank computes by itself.
            return f"{line[-1]} itself" if line[-2:-1] == ["stage"] and "dvc" not in " ".join(line[:2]) else None
        except psutil.Error:
            return None

    def used(self, stage: str) -> int:
        """Of a rank, or of the stage that has none."""
        return self.peak[stage] or self.peak[f"{stage} itself"]


def rows(count: int, prefix: str) -> list[dict[str, Any]]:
    """Rows about photographs."""
    return [
        {
            "id": f"{prefix}{number}",
            "question": f"What is in picture {prefix}{number}?",
            "models_output": ["A thing that stands in front of another.", "Nothing.", f"Some {number} colors."],
            "final_ranking": [1, 3, 2],
            "score_reasons": ["Right, and whole.", "Wrong.", "In part."],
            "image": f"photographs/{PHOTOGRAPHS[number % len(PHOTOGRAPHS)]}",
            "video": "",
        }
        for number in range(count)
    ]


def write_photographs(data: Path) -> None:
    save_photographs(data / "preferences/photographs", PHOTOGRAPHS)
    write_rows(data / "preferences/data.jsonl", rows(64, "t"))
    write_rows(data / "preferences/heldout.jsonl", rows(24, "h"))


def high_resolution(base: Path) -> Path:
    """Let a base's processor keep up to two megapixels of a picture."""
    path = base / "preprocessor_config.json"
    path = path if path.is_file() else base / "processor_config.json"
    values = json.loads(path.read_text())
    inner = values.get("image_processor", values)
    inner["size"] = {"shortest_edge": 256, "longest_edge": 640 * 480}
    path.write_text(json.dumps(values))
    return base


def make(folder: Path, name: str) -> Slice:
    if name == "bundled":
        return make_slice(folder, ROOT / "data/base", write_slice, {**SMALL, "evaluate": {"samples": 2}})
    if name == "logits":
        return make_slice(folder, save_checkpoint(folder / "base", vocabulary=VOCABULARY), write_slice, SMALL)
    base = high_resolution(BUILDERS["qwen2_5_vl"](folder / "base"))
    # Four photographs stand in both files.
    return make_slice(folder, base, write_photographs, {**SMALL, "model": {"max_length": 8192}, "validate": {"max_leaked_share": 1.0}})


def idle_bytes() -> int:
    """PSS of a process that has imported what a rank imports, and has nothing to do."""
    code = "import torch, transformers, deepspeed, psutil; print(psutil.Process().memory_full_info().pss)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("name", ["pictures", "logits", "bundled"])
@pytest.mark.usefixtures("data")
def test_rehearsed_memory_is_what_stages_use(tmp_path: Path, name: str) -> None:
    made = make(tmp_path, name)
    began = time.monotonic()
    rehearsed = made.mmalign("rehearse", "--json", timeout=900)
    assert rehearsed.returncode == 0, rehearsed.stdout[-3000:] + rehearsed.stderr[-3000:]
    assert time.monotonic() - began < LONGEST_SECONDS
    rehearsed_stages = json.loads(rehearsed.stdout)["stages"]
    with Sampler(made.root) as sampler:
        ended = made.mmalign("run", "--accept-data", "--bundled-rows", "--no-rehearsal", timeout=1200)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    idle = idle_bytes()
    compared = {stage: (rehearsed_stages[stage]["peak_host_bytes"] / 1e6, sampler.used(stage) / 1e6) for stage in STAGES}
    print(name, "idle", idle / 1e6, "MB; said and used:", compared)
    for stage, (promised, used) in compared.items():
        assert used, f"{stage} ran no rank"
        assert abs(promised - used) <= max(ALLOWED_BYTES, ALLOWED_SHARE * (used * 1e6 - idle)) / 1e6, (stage, compared)
