"""The order of trials, the changes that are tried, and the metrics, with the stages' processes replaced: what they leave is written by hand."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.cli.run.rehearse import rehearse as rehearse_command
from components.errors import InfrastructureFault, UserError
from components.files import write_atomic, write_json
from components.registry.policy import POLICY_FILE
from components.rehearsal import rehearse as module
from components.rehearsal import rehearsed
from components.rehearsal.devices import Machine
from components.rehearsal.media import MediumSize
from components.rehearsal.parameters import architecture
from components.rehearsal.peak import PeakMemory
from components.rehearsal.rehearse import Rehearsal, rehearse
from components.rehearsal.rehearsed import expected_seconds, is_rehearsed, needs_rehearsal, record
from components.rehearsal.sample import Row, Sample, Totals
from components.rehearsal.trial import outcome_file
from components.rehearsal.trial_metrics import trial_metrics
from components.rehearsal.workspace import write_settings
from components.stages import STAGE_NAMES
from tests.checkout import ROOT
from tests.rehearsal.test_sample import question, write
from tests.rehearsal.tiny import CONFIGS, settings
from tests.settings import copy_settings

CPU = Machine("cpu, 2 cores", "cpu", 8_000_000_000, seen=True)
OUT_OF_MEMORY = "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    write(tmp_path / "data/preferences/data.jsonl", [question(number, 40) for number in range(64)])
    write(tmp_path / "data/preferences/heldout.jsonl", [question(number, 40) for number in range(64, 96)])
    write_json(tmp_path / "data/base/config.json", {"model_type": "llava_onevision", **CONFIGS["llava_onevision"]})
    return Checkout(tmp_path)


class Stages:
    """Stands for the processes of the stages: each leaves an outcome; `limit` is the most rows of a micro-batch that a training can hold."""

    def __init__(self, limit: int, faults: dict[str, dict[str, str]] | None = None) -> None:
        self.limit, self.faults = limit, faults or {}
        self.ran: list[tuple[str, int]] = []

    def __call__(self, stage: str, made: Checkout) -> tuple[int, PeakMemory]:
        rows = json.loads(made.params.read_text())["training"]["batch_rows"]
        self.ran.append((stage, rows))
        peak = PeakMemory(0)
        peak.rank, peak.own = 1000 * rows, 77
        outcome: dict[str, Any] = {"kind": "ok", "metrics": {}, "times": {"compute_seconds": 4.0}, "seconds": 10.0, "resume_seconds": 3.0}
        if stage in ("reward", "align"):
            if rows > self.limit:
                outcome = {"kind": "infrastructure", "sentence": OUT_OF_MEMORY}
            else:
                outcome["times"] = {"startup_seconds": 2.0}
                curves = made.scratch(stage, "run", "curves.jsonl")
                curves.parent.mkdir(parents=True)
                curves.write_text("".join(json.dumps({"step": n, "epoch": 1, "tokens": 100, "seconds": 1.0}) + "\n" for n in (1, 2, 3)))
        write_json(outcome_file(made, stage), self.faults.get(stage, outcome))
        return 0, peak


def run(checkout: Checkout, stages: Stages, monkeypatch: pytest.MonkeyPatch, rows: int = 8) -> Rehearsal:
    monkeypatch.setattr(module, "_run", stages)
    values = settings(training={"batch_rows": rows, "ranks": 1}, reward={"queries_per_step": 16}, alignment={"queries_per_step": 16})
    return rehearse(checkout, values, CPU, lambda _: None)


def test_stages_that_fit_run_once_each_in_order(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages(limit=8)
    rehearsal = run(checkout, stages, monkeypatch)
    assert stages.ran == [(stage, 8) for stage in STAGE_NAMES]
    assert rehearsal.fits
    assert rehearsal.changes is None
    metrics = rehearsal.trials["align"].metrics
    assert metrics is not None
    # 3 % on the rank's 8,000 bytes, for what an allocator retains over more batches.
    assert (metrics.rank_bytes, metrics.launcher_bytes, metrics.device_bytes) == (8240, 77, None)


def test_trials_have_no_fresh_part(checkout: Checkout, tmp_path: Path) -> None:
    made = Checkout(tmp_path / "made")
    made.root.mkdir()
    write_settings(made, checkout, settings(evaluate={"fresh_share": 0.5}))
    assert json.loads(made.params.read_text())["evaluate"]["fresh_share"] == 0


def test_json_names_rules_that_heldout_rows_feed(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [question(number, 40 + number, final_ranking=[1, 2], image="", category="short") for number in range(200)]
    write(checkout.preferences / "heldout.jsonl", rows)
    copy_settings(checkout.root)
    monkeypatch.setattr("components.cli.run.rehearse.enter_checkout", lambda: checkout)
    write_atomic(checkout.root / POLICY_FILE, "allow_unmeasured_safety: because\n")
    monkeypatch.chdir(checkout.root)
    monkeypatch.setattr(module, "_run", Stages(limit=8))
    rehearse_command(["training.ranks=1"], as_json=True)
    rules = json.loads(capsys.readouterr().out)["gate_rules"]
    assert rules["apply"] == ["degenerate", "preference_accuracy", "ranks", "win_rate"]
    assert rules["unfed"] == ["conversation", "unsafe", "unsafe_ceiling", "over_refusal", "hallucination", "categories", "reference_answer"]
    assert (rules["refusing"], rules["measures_safety"]) == ({}, False)
    rehearse_command(["training.ranks=1"])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"gate: 200 held-out rows feed the rules of {POLICY_FILE}: {rules['sentence']}" in printed


def test_rows_are_halved_until_a_training_fits(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages(limit=2)
    rehearsal = run(checkout, stages, monkeypatch)
    assert [rows for stage, rows in stages.ran if stage == "reward"] == [8, 4, 2]
    assert [rows for stage, rows in stages.ran if stage == "align"] == [2]
    assert not rehearsal.fits
    assert rehearsal.changes == [("training.batch_rows", "2")]
    assert rehearsal.trials["reward"].refused == OUT_OF_MEMORY


def test_stage_that_nothing_helps_ends_the_rehearsal(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = run(checkout, Stages(limit=0), monkeypatch)
    assert list(rehearsal.trials) == ["validate", "reward"]
    assert rehearsal.changes == []
    assert not rehearsal.fits


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"kind": "mistake", "sentence": "row 7 is wrong"}, UserError),
        ({"kind": "infrastructure", "sentence": "disk full"}, InfrastructureFault),
    ],
)
def test_other_faults_are_raised_with_the_log(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, fault: dict[str, str], kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=rf"{fault['sentence']} \(the log: .*critique\.log\)"):
        run(checkout, Stages(limit=8, faults={"critique": fault}), monkeypatch)


@pytest.mark.parametrize(
    ("line", "kind", "changes"),
    [
        ("terminate called after throwing an instance of 'std::bad_alloc'", "infrastructure", [("training.batch_rows", "4")]),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3 GiB", "code", [("training.batch_rows", "4")]),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "mistake", None),
        ("all is well", "infrastructure", None),
    ],
)
def test_memory_that_only_the_log_names_counts(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, line: str, kind: str, changes: list[tuple[str, str]] | None
) -> None:
    stages = Stages(limit=8)

    def aborted_once(stage: str, made: Checkout) -> tuple[int, PeakMemory]:
        code, peak = stages(stage, made)
        log = made.logs / f"{stage}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as stream:
            if stages.ran[-1] == ("align", 8):
                stream.write(f"{line}\n")
                write_json(outcome_file(made, stage), {"kind": kind, "sentence": "align: a rank was ended by SIGABRT"})
            else:
                stream.write("fine\n")
        return code, peak

    if changes is None:
        with pytest.raises(Exception, match="SIGABRT"):
            run(checkout, aborted_once, monkeypatch)  # type: ignore[arg-type]  # called alike
        return
    rehearsal = run(checkout, aborted_once, monkeypatch)  # type: ignore[arg-type]
    assert rehearsal.changes == changes
    assert line in str(rehearsal.trials["align"].refused)


def test_killed_stage_counts_as_out_of_memory(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages(limit=8)

    def killed_once(stage: str, made: Checkout) -> tuple[int, PeakMemory]:
        code, peak = stages(stage, made)
        if stage == "align" and stages.ran[-1] == ("align", 8):
            outcome_file(made, stage).unlink()
            return -9, peak
        return code, peak

    rehearsal = run(checkout, killed_once, monkeypatch)  # type: ignore[arg-type]  # called alike
    assert rehearsal.trials["align"].refused == "align: the stage was ended by SIGKILL"
    assert rehearsal.changes == [("training.batch_rows", "4")]


@pytest.mark.parametrize(("limit", "left"), [("8000000000", 7_600_000_000), ("unlimited", resource.RLIM_INFINITY)])
def test_trial_leaves_room_below_a_limit(limit: str, left: int) -> None:
    code = (
        "import resource; from components.rehearsal.trial import leave_room; leave_room(); print(*resource.getrlimit(resource.RLIMIT_AS))"
    )
    words = ["prlimit", f"--as={limit}", sys.executable, "-c", code]
    printed = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert int(printed.split()[0]) == left


def test_workspace_holds_sampled_rows_and_the_base(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = run(checkout, Stages(limit=8), monkeypatch)
    made = Checkout(checkout.rehearsal)
    assert len((made.preferences / "data.jsonl").read_text().splitlines()) == len(rehearsal.sample.train) == 64  # a batch of 128 critiques
    assert (made.root / "data/base/config.json").is_file()
    assert json.loads(made.params.read_text())["reward"]["epochs"] == 2


def sample() -> Sample:
    """40 of 400 training queries with 3 responses, 10 of 20 held-out ones; the longest are over-represented: a third of the tokens."""
    train = [Row("", 10.0, 5.0, 3, (), MediumSize(0, 0, 0))] * 40
    heldout = [Row("", 10.0, 5.0, 3, (), MediumSize(0, 0, 0))] * 10
    return Sample(train, heldout, {"train": Totals(400, 1200, 3000.0, 0), "heldout": Totals(20, 60, 150.0, 0)})


def test_time_of_a_training_follows_its_steps(tmp_path: Path) -> None:
    made = Checkout(tmp_path)
    steps = [(1, 50, 10.0), (1, 100, 1.0), (1, 150, 2.0), (2, 100, 2.0), (2, 100, 1.0)]
    lines = [json.dumps({"epoch": epoch, "tokens": tokens, "seconds": seconds}) for epoch, tokens, seconds in steps]
    write(made.scratch("reward", "x", "curves.jsonl"), lines)
    values = settings(reward={"epochs": 3, "max_steps": None}, training={"checkpoint_every": "9 steps", "keep_checkpoints": 2})
    outcome = {"seconds": 24.0, "resume_seconds": 6.0, "times": {"startup_seconds": 4.0}}
    peak = PeakMemory(0)
    metrics = trial_metrics("reward", values, outcome, peak, made, sample())
    # 300 tokens of the sample are 2,250 of all rows, and 6,750 of three epochs; rates 50, 75, 100, 100. Beside 16 s of steps 6 s are fixed,
    # and 2 s are ten times that for ten times the queries. Three steps an epoch of the sample are 90 of all: ten checkpoints of 2 s.
    assert metrics.tokens_per_second == 100
    assert metrics.seconds == (6750 / 100 + 6 + 2, 6750 / 100 + 6 + 11 + 10, 6750 / 50 + 6 + 20 + 20)


def test_most_steps_bound_the_time_of_a_training(tmp_path: Path) -> None:
    made = Checkout(tmp_path)
    lines = [json.dumps({"epoch": 1, "tokens": 100, "seconds": 1.0})] * 2
    write(made.scratch("align", "x", "curves.jsonl"), lines)
    values = settings(alignment={"epochs": 1, "max_steps": 5}, training={"checkpoint_every": "100 steps"})
    outcome = {"seconds": 2.0, "resume_seconds": 4.0, "times": {"startup_seconds": 4.0}}
    metrics = trial_metrics("align", values, outcome, PeakMemory(0), made, sample())
    # 200 tokens are 1,500 of all rows in 20 steps, a quarter of which are taken; 4 s are fixed.
    assert metrics.seconds == pytest.approx((3.75 + 4, 3.75 + 4, 3.75 + 4))


@pytest.mark.parametrize(
    ("stage", "low", "high"),
    [("critique", 6 + 4 * 6.3, 6 + 4 * 8.4), ("reference", 6 + 4 * 6.3, 6 + 4 * 8.4), ("evaluate", 6 + 4 * 1.5, 6 + 4 * 2.0)],
)
def test_time_of_other_stages_follows_tokens_and_responses(tmp_path: Path, stage: str, low: float, high: float) -> None:
    outcome = {"seconds": 10.0, "resume_seconds": 0.0, "times": {"policies.compute_seconds": 3.0, "reward.compute_seconds": 1.0}}
    metrics = trial_metrics(stage, settings(), outcome, PeakMemory(0), Checkout(tmp_path), sample())
    assert metrics.seconds == pytest.approx((low, (low + high) / 2, high))


def test_disk_holds_retained_checkpoints_and_one_in_writing(tmp_path: Path) -> None:
    made = Checkout(tmp_path)
    write(made.scratch("align", "x", "curves.jsonl"), [json.dumps({"epoch": 1, "tokens": 1, "seconds": 1.0})])
    write(made.scratch("align", "x", "checkpoint-3", "weights"), ["12345678"])
    write(made.artifact("align", "model", "weights"), ["123"])
    outcome = {"seconds": 2.0, "resume_seconds": 1.0, "times": {"startup_seconds": 1.0}}
    metrics = trial_metrics("align", settings(training={"keep_checkpoints": 3}), outcome, PeakMemory(0), made, sample())
    assert metrics.disk_bytes == 4 + 9 * 4


def test_rehearsed_settings_need_no_second_rehearsal(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = run(checkout, Stages(limit=8), monkeypatch)
    values = rehearsal.settings
    assert not is_rehearsed(checkout, values, CPU)
    record(checkout, rehearsal)
    assert is_rehearsed(checkout, values, CPU)
    other = settings(training={"batch_rows": 4, "ranks": 1}, reward={"queries_per_step": 16}, alignment={"queries_per_step": 16})
    assert not is_rehearsed(checkout, other, CPU)
    write_json(checkout.root / "data/base/config.json", {"model_type": "llava_onevision", **CONFIGS["llava_onevision"], "changed": 1})
    assert not is_rehearsed(checkout, values, CPU)


def test_rehearsal_holds_for_the_chosen_source_of_critiques(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkout.preferences / "data.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write(path, [{**row, "score_reasons": ["", ""]} for row in rows])
    rehearsal = run(checkout, Stages(limit=8), monkeypatch)
    assert rehearsal.settings.reward.critique_source == "none"
    assert json.loads(Checkout(checkout.rehearsal).params.read_text())["reward"]["critique_source"] == "none", "and not what the sample has"
    record(checkout, rehearsal)
    values = settings(training={"batch_rows": 8, "ranks": 1}, reward={"queries_per_step": 16}, alignment={"queries_per_step": 16})
    assert values.reward.critique_source == "auto"
    assert is_rehearsed(checkout, values, CPU)
    write(path, rows)
    assert not is_rehearsed(checkout, values, CPU), "critiques have to be written now"
    write(path, [*rows[:1], *({**row, "score_reasons": ["", ""]} for row in rows[1:])])
    with pytest.raises(UserError, match=r"fewer than reward\.least_annotated_share"):
        run(checkout, Stages(limit=8), monkeypatch)


def test_only_long_runs_need_a_rehearsal(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    values = settings(training={"threads": 2, "ranks": 1}, reward={"epochs": 2}, alignment={"epochs": 1})
    model = architecture({"model_type": "llava_onevision", **CONFIGS["llava_onevision"]})
    tokens = 64 * (40 + 3) / 3.5  # the critiques are not counted
    seconds = tokens * 3 * 6 * (3 * model.decoder_layer + 64 * 500) / 20e9
    assert expected_seconds(checkout, values, CPU) == pytest.approx(seconds)
    assert not needs_rehearsal(checkout, values, CPU)
    monkeypatch.setattr(rehearsed, "LONG_SECONDS", seconds * 0.99)
    assert needs_rehearsal(checkout, values, CPU)
    monkeypatch.setattr(rehearsed, "LONG_SECONDS", seconds * 1.01)
    assert not needs_rehearsal(checkout, values, CPU)


def test_base_of_unknown_sizes_needs_no_rehearsal(checkout: Checkout) -> None:
    (checkout.root / "data/base/config.json").unlink()
    assert not needs_rehearsal(checkout, settings(), CPU)


def test_measured_rate_takes_the_place_of_the_assumed_one(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = run(checkout, Stages(limit=8), monkeypatch)
    record(checkout, rehearsal)
    assert expected_seconds(checkout, rehearsal.settings, CPU) == pytest.approx(64 * 43 / 3.5 * 4 / 100)
