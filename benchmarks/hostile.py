"""What strangers' files do to the commands: rows, checkpoints, archives, settings and names, each with the end that its file expects.

- Bad rows (benchmarks/poisons, and `rows*.jsonl` of `--probes DIR`) go through `mmalign stage validate`: one that is not in its quarantine is
  through. Checkpoints go through `mmalign model verify` and through what a stage opens them with, some through `mmalign model fetch` too; one
  that none of them refuses for the expected reason is through. Archives go through `mmalign data import`, and commands as they stand.
- Each command runs on a terminal on which somebody has typed "y".
- `traces` counts Python's tracebacks in what commands wrote, in their logs, and in the records of MLflow and of Prefect, whose server a run of
  `mmalign run --only validate` on hostile data starts. `commands_run` counts files that code of a probe wrote, `paths_escaped` changes outside
  the folders of commands and foreign files that got into them, `secrets_found` the texts that hold a password of the environment or of an
  untracked file, `terminal_escapes` the control and bidirectional characters on standard output and error.
- `unexpected` lists other ends than expected, of good probes that are refused too.

    python -m benchmarks.hostile --json
    python -m benchmarks.hostile --json --probes DIR

Bounds here: rows_tried 200, checkpoints_tried 40, all counts below them 0. It ends with 1 where a count is not 0, and where a kind has no probe.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks import _hostile_probes as probes
from benchmarks import _hostile_run as processes
from benchmarks import _poisons
from benchmarks._bundled import fetch_data
from benchmarks._harness import ROOT, Report, show
from benchmarks._hostile_probes import Places, Probe
from benchmarks._hostile_run import REFUSED, SECONDS, Ended, mmalign
from components.files import write_atomic

SECRETS = {"AWS_SECRET_ACCESS_KEY": "canary-of-the-environment-1x7", "HF_TOKEN": "hf_canaryOfTheToken2x7"}
FILE_SECRET, OUTSIDE_SECRET = "canary-of-a-file-3x7", "canary-outside-4x7"
TRACE = b"Traceback (most recent call last)"
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\udc80-\udcff]")
ZERO = (
    "rows_through",
    "checkpoints_through",
    "traces",
    "commands_run",
    "paths_escaped",
    "secrets_found",
    "terminal_escapes",
    "others_through",
)
RUN_SECONDS = 400.0
SHOWN = 25
LEAST = {"rows_tried": 200, "checkpoints_tried": 40}
BEGIN, END = "<!-- benchmarks.hostile -->", "<!-- end -->"


@dataclass
class Counts:
    """What was seen so far. `kinds` maps a kind to its number of probes."""

    places: Places
    kinds: Counter[str] = field(default_factory=Counter)
    numbers: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)

    def wrong(self, count: str, sentence: str) -> None:
        """Count something that must not be, with a sentence about it."""
        self.numbers[count] += 1
        if self.numbers[count] <= SHOWN:  # of each count, so that many of one hide none of another
            self.unexpected.append(f"{count}: {ascii(sentence)[1:-1][:300]}")

    def read(self, name: str, ended: Ended) -> None:
        """Count what a command's words must not hold."""
        if TRACE.decode() in ended.text:
            self.wrong("traces", f"{name}: {ended.text.strip().splitlines()[-1]}")
        if CONTROL.search(ended.text):
            self.wrong("terminal_escapes", f"{name}: {CONTROL.findall(ended.text)[:5]}")
        self.secrets(name, ended.text.encode("utf-8", "surrogateescape"))

    def secrets(self, name: str, content: bytes) -> None:
        """Count a text that holds a secret."""
        if any(secret.encode() in content for secret in (*SECRETS.values(), FILE_SECRET, OUTSIDE_SECRET)):
            self.wrong("secrets_found", name)


class Measurement:
    """The folders of one measurement, and the commands in them."""

    def __init__(self, work: Path, base: Path, patience: float = 1.0) -> None:
        self.base, self.places, self.patience = base, Places(work), patience
        self.counts = Counts(self.places)
        self._number = 0
        for folder in (self.places.outside, self.places.ran):
            folder.mkdir(parents=True)
        (self.places.outside / "secret.txt").write_text(OUTSIDE_SECRET)
        self.environment = {**SECRETS, "MMALIGN_SLOTS": str(work / "slots"), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def command(self, name: str, work: Any, folder: Path) -> Ended:
        """Run a command and count what it wrote."""
        self._number += 1
        ended = processes.run(work, folder, self.places.work / "words" / str(self._number), self.environment, SECONDS * self.patience)
        self.counts.read(name, ended)
        return ended

    def checkout(self, name: str, **changes: Any) -> Path:
        """A checkout with the settings of this one, the base, and no data."""
        root = self.places.work / name
        (root / "data/preferences").mkdir(parents=True)
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        values["model"]["base"] = "data/base"
        values["validate"] |= changes
        (root / "params.yaml").write_text(yaml.safe_dump(values))
        for shipped in ("ops.yaml", "dvc.yaml"):
            shutil.copyfile(ROOT / shipped, root / shipped)
        shutil.copytree(ROOT / "mlflow", root / "mlflow", ignore=shutil.ignore_patterns("__pycache__"))
        (root / "data/base").symlink_to(self.base)
        return root

    def rows(self, folders: list[Path]) -> None:
        """All bad rows, the bundled ones and those of `folders`, with good rows between them, through the stage."""
        root = self.checkout("rows", max_quarantined_share=1.0)
        preferences = root / "data/preferences"
        poisons = _poisons.read_poisons(_poisons.FOLDER)
        poisons += [poison for folder in folders for poison in _poisons.read_poisons(folder, probes.ROWS)]
        places = _poisons.write_poisoned(preferences, poisons)
        ended = self.command("rows", mmalign("stage", "validate"), root)
        path = root / "artifacts/validate/quarantine.jsonl"
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
        refused = {line["line"] for line in lines}
        self.counts.kinds["rows"] += len(places)
        self.counts.numbers["rows_tried"] = len(places)
        for line, poison in places.items():
            if line not in refused:
                self.counts.wrong("rows_through", f"{poison.name} in line {line}: {ended.text[-100:] if not lines else ''}")
        for line in sorted(refused - places.keys()):
            self.counts.wrong("good_refused", f"the good row in line {line}")

    def checkpoint(self, probe: Probe, checkout: Path) -> None:
        """A checkpoint through `model verify`, `model fetch` and a stage's openers."""
        counts = self.counts
        folder = probes.write_checkpoint(probe, self.base, self.places.work / "checkpoints" / probe.name)
        ends = {
            "verify": self.command(probe.name, mmalign("model", "verify", str(folder)), checkout),
            "open": self.command(probe.name, processes.opened(folder), checkout),
        }
        target = self.places.work / "fetched" / probe.name
        if probe.values.get("fetch"):
            ends["fetch"] = self.command(probe.name, mmalign("model", "fetch", str(folder), "--to", str(target)), checkout)
        counts.numbers["checkpoints_tried"] += 1
        for name, ended in ends.items():
            if name not in probe.values.get("by", ends):
                continue
            codes = {"used": {0}, "refused": {REFUSED}, "any": {0, REFUSED}}[probe.expect]
            if ended.code not in codes or (probe.expect == "refused" and not probe.says(ended.text)):
                count = "good_refused" if probe.expect == "used" else "checkpoints_through"
                counts.wrong(count, f"{probe.name} by {name} ends with {ended.code}: {ended.text[-200:]}")
        shutil.rmtree(self.places.work / "checkpoints")
        if probe.expect == "refused" and target.exists():
            counts.wrong("checkpoints_through", f"{probe.name} was fetched")

    def other(self, probe: Probe) -> None:
        """An archive through `data import`, or a command."""
        root = self.checkout(f"other-{self._number}")
        if probe.form == "archives":
            path = probes.write_archive(probe, root / f"rows.{probe.values['archive']}")
            arguments = ["data", "import", str(path)]
        else:
            probes.write_files(probe, root)
            arguments = probe.values["command"]
        ended = self.command(probe.name, mmalign(*arguments), root)
        codes = {"used": {0}, "refused": {REFUSED}, "any": {0, REFUSED}, "silent": {0}}[probe.expect]
        silent = probe.expect != "silent" or not ended.error
        if ended.code not in codes or not silent or (probe.expect == "refused" and not probe.says(ended.text)):
            self.counts.wrong("others_through", f"{probe.name} ends with {ended.code}: {ended.text[-200:]}")

    def run(self) -> None:
        """`mmalign run` in a clone on hostile rows, with servers and their records, and an untracked file with a secret."""
        clone = self.places.work / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True, capture_output=True)
        environment = {**os.environ, **self.environment, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run(["dvc", "pull", "-q", "data.dvc"], cwd=clone, env=environment, check=True, capture_output=True)
        (clone / "own.env").write_text(f"PASSWORD={FILE_SECRET}\n")
        preferences = clone / "data/preferences"
        poisons = _poisons.read_poisons(_poisons.FOLDER)
        bad = b"\n".join(line for poison in poisons for line in poison.lines)
        file = preferences / "data.jsonl"
        file.write_bytes(bad + b"\n" + file.read_bytes())
        self.counts.kinds["run"] += 1
        try:
            ended = subprocess.run(
                [Path(sys.executable).parent / "mmalign", "run", "--only", "validate"],
                cwd=clone,
                env={**environment, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                timeout=RUN_SECONDS * self.patience,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self.counts.wrong("others_through", f"mmalign run took more than {RUN_SECONDS * self.patience:g} s")
            return
        words = Ended(ended.returncode, *(stream.decode("utf-8", "surrogateescape") for stream in (ended.stdout, ended.stderr)))
        self.counts.read("run", words)
        if ended.returncode not in {0, REFUSED}:
            self.counts.wrong("others_through", f"mmalign run ends with {ended.returncode}: {words.text[-300:]}")

    def leftovers(self) -> None:
        """Count what the commands left: traces and secrets in logs and records, files of code that ran, and files outside."""
        work, counts = self.places.work, self.counts
        for path in sorted(self.places.ran.rglob("*")):
            counts.wrong("commands_run", str(path.relative_to(work)))
        for path in sorted(work.rglob("*escaped*")):
            counts.wrong("paths_escaped", str(path.relative_to(work)))
        if {path.name for path in self.places.outside.iterdir()} != {"secret.txt"}:
            counts.wrong("paths_escaped", "files were written outside")
        own = {"params.yaml", "own.env", "secret.txt"}
        folders = [folder for folder in sorted(work.iterdir()) if folder.name not in {"outside", "words"}]
        for path, content in processes.texts_below(folders):
            name = str(path.relative_to(work))
            if path.suffix in {".py", ".pyc"} or ".git" in path.parts:  # of the checkout itself
                continue
            if OUTSIDE_SECRET.encode() in content:
                counts.wrong("paths_escaped", f"{name} holds a file from outside")
            elif path.name not in own:
                counts.secrets(name, content)
            if TRACE in content and path.suffix != ".md":
                counts.wrong("traces", name)


def measure(base: Path, folders: list[Path], *, servers: bool, patience: float = 1.0) -> Report:
    """All that this benchmark counts, on the probes of some folders."""
    processes.preload()
    with tempfile.TemporaryDirectory(prefix="mmalign-hostile-") as directory:
        measured = Measurement(Path(directory), base, patience)
        measured.rows(folders)
        checkout = measured.checkout("commands")
        for probe in [probe for folder in (probes.FOLDER, *folders) for probe in probes.read_probes(folder, measured.places)]:
            measured.counts.kinds[probe.kind] += 1
            if probe.form == "checkpoints":
                measured.checkpoint(probe, checkout)
            else:
                measured.other(probe)
        if servers:
            measured.run()
        measured.leftovers()
    counts = measured.counts
    for sentence in counts.unexpected:
        print(sentence, file=sys.stderr)
    numbers = {name: counts.numbers[name] for name in ("rows_tried", "checkpoints_tried", *ZERO, "good_refused")}
    absent = sorted({"rows", *probes.KINDS} - set(counts.kinds))
    return {**numbers, "kinds": dict(counts.kinds), "kinds_without_probe": absent, "date": datetime.now(UTC).date().isoformat()}


def table(report: Report) -> str:
    """The figures of a report as SECURITY.md shows them."""
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(report["kinds"].items()))
    lines = ["| figure | bound | counted |", "|---|---|---|"]
    names = ("rows_tried", "checkpoints_tried", *ZERO, "good_refused")
    lines.extend(f"| `{name}` | {LEAST.get(name, 0)} | {report[name]} |" for name in names)
    return "\n".join([*lines, "", f"Counted on {report['date']}. Probes by kind: {kinds}.", ""])


def write_table(report: Report, path: Path) -> None:
    """Replace the table of a page."""
    before, _, rest = path.read_text("utf-8").partition(BEGIN)
    write_atomic(path, f"{before}{BEGIN}\n{table(report)}{END}{rest.partition(END)[2]}")


def main() -> None:
    """Count and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options.add_argument("--base", type=Path, default=ROOT / "data/base", help="the good checkpoint that probes change")
    options.add_argument("--probes", type=Path, action="append", default=[], help="a folder of further probes")
    options.add_argument("--write", action="store_true", help="write the figures into SECURITY.md")
    options.add_argument(
        "--patience", type=float, default=1.0, help="how many times its usual seconds a command may take, on a busy machine"
    )
    options.add_argument("--without-servers", action="store_true", help="leave out the run that starts servers")
    arguments = options.parse_args()
    for folder in arguments.probes:
        try:
            probes.check(folder)
        except ValueError as error:
            options.error(str(error))
    fetch_data()
    report = measure(
        arguments.base.resolve(),
        [folder.resolve() for folder in arguments.probes],
        servers=not arguments.without_servers,
        patience=arguments.patience,
    )
    show(report, arguments.json)
    if arguments.write:
        write_table(report, ROOT / "SECURITY.md")
    if report["kinds_without_probe"] or report["good_refused"] or any(report[name] for name in ZERO):
        sys.exit(1)


if __name__ == "__main__":
    main()
