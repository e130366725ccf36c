"""The files of a finished run, by the stages' writers, with hostile texts wherever texts come from outside."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageDraw

from components.checkout import Checkout
from components.evaluation.error_sheets import Sheets, judge_key
from components.evaluation.verdict import GROUND_TRUTH, RULES, Verdict
from components.files import read_json, write_json
from components.preferences.record import CATEGORIES, Kind, Medium, Query, Response, write_queries
from components.registry.decision import Decision, Finding, Measure
from components.report.judgements import read_judgements
from components.report.summary import RunRecord, StageRecord, summarize
from components.stages import STAGE_NAMES
from components.statistics import Interval
from components.tracking import store
from tests.settings import ROOT, copy_settings

SCRIPT = "<script>window.hit = 'script'</script>"
HANDLER = "<img src=x onerror=\"window.hit = 'image'\">"
HOSTILE_FILE = "<img src=x onerror=alert(1)>.png"
QUERIES = 30
STEPS = 80


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout of a successful run, read-only for tests."""
    root = tmp_path_factory.mktemp("finished") / "checkout"
    root.mkdir()
    copy_settings(root)
    write_sheets(root / "judges/sheets")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    queries = make_queries(root / "data/preferences")
    write_artifacts(root, queries)
    write_lock(root)
    runs = record_curves(root)
    for stage in STAGE_NAMES:
        write_json(
            root / f"artifacts/{stage}/run.json",
            {
                "mlflow_run_id": runs.get(stage, f"run-of-{stage}"),
                "started": "2026-01-02T03:04:05+00:00",
                "times": {"training_seconds": 7.5} if stage in runs else {},
                "digests": {f"model:artifacts/{stage}/model": "d" * 64} if stage in runs else {},
                "dirty": False,
                "python": "3.11.7",
                "lock_sha256": "e" * 64,
            },
        )
    write_summary(root)
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the finished run with its own tracking store, which names the first one's artifacts."""
    root = tmp_path / "checkout"
    shutil.copytree(finished, root, symlinks=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield root
    store._failures.clear()
    store._connect.cache_clear()


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    return subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def make_queries(media: Path) -> list[Query]:
    """Held-out queries of every category, the first of each hostile; images, one video a five, and texts alone."""
    queries = []
    for number in range(QUERIES):
        category = CATEGORIES[number % len(CATEGORIES)]
        path: str | None = None
        kind: Kind = "image"
        if category == "video":
            path, kind = f"video/clip-{number}", "video"
            for frame in range(6):
                draw(media / path / f"{frame}.png", number + frame)
        elif category != "safety":
            path, kind = f"{category}/{HOSTILE_FILE if number < 5 else f'{number}.png'}", "image"
            draw(media / path, number)
        hostile = number < 5
        responses = tuple(
            Response(f"{SCRIPT if hostile else ''}answer {rank} to question {number}", rank, critique="I see it. Correct.")
            for rank in (1, 2, 3)
        )
        queries.append(
            Query.single(
                f"{category}-{number:04}{HANDLER if hostile else ''}",
                category,
                f"{HANDLER if hostile else ''}What is shown in picture {number}?\nA. this\nB. that",
                responses,
                *([] if path is None else [Medium(path, kind)]),
                safety=("harmful" if number < 15 else "harmless") if category == "safety" else None,
                source=f"{SCRIPT if hostile else ''}drawn by a program, ranked by a rule{'; hard part' if number % 3 == 0 else ''}",
                split="heldout",
            )
        )
    return queries


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (96, 72), (230, 235, 240))
    ImageDraw.Draw(image).rectangle((10 + number, 20, 40 + number, 50), fill=(40, 40 + 5 * number, 120))
    image.save(path)


def judged(query: Query, *, good: bool) -> Verdict:
    """The ground truth decides on all but multiple choice, where the rules do."""
    by = RULES if query.category == "mcq" else GROUND_TRUTH
    if query.safety == "harmful":
        return Verdict(None, good, good, None, degenerate=False, judge=by)
    refused = not good if query.safety == "harmless" else None
    described = not good if query.category == "long" and query.media else None
    return Verdict(good, None, refused, described, degenerate=False, judge=by, description_judge="" if described is None else by)


def write_sheets(folder: Path) -> None:
    """The shipped error sheets, as of the present code."""
    folder.mkdir(parents=True)
    for name in (GROUND_TRUTH, RULES):
        write_json(folder / f"{name}.json", {**read_json(ROOT / f"judges/sheets/{name}.json"), "key": judge_key(name)})


def write_artifacts(root: Path, queries: list[Query]) -> None:
    """The outs of validate, critique, align and evaluate."""
    write_queries(root / "artifacts/validate/heldout/queries.parquet", queries)
    _write_evaluation(root, queries)
    _write_alignment(root / "artifacts")
    _write_validation(root / "artifacts")


def _write_evaluation(root: Path, queries: list[Query]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from components.evaluation.answers import Answered, write_answers
    from components.evaluation.corrected_metrics import corrected_metrics
    from components.evaluation.metrics import policy_metrics, preference_metrics, reward_metrics, variant_metrics, win_metrics
    from components.evaluation.parts import part_metrics
    from components.evaluation.results import write_policy_results
    from components.evaluation.samples import ShownCritique, choose, write_samples
    from components.evaluation.scores import OwnCritique, write_scores
    from components.statistics import Intervals

    artifacts, intervals = root / "artifacts", Intervals(0.95)
    # base: the even ones right; aligned: all but every fifth
    policies = [
        Answered(
            name,
            [f"{SCRIPT if n < 5 else ''}{HANDLER if n < 5 else ''}{name} says {'yes' if right(n) else 'no'}" for n in range(len(queries))],
            [judged(query, good=right(n)) for n, query in enumerate(queries)],
        )
        for name, right in (("base", lambda n: n % 2 == 0), ("aligned", lambda n: n % 5 != 0))
    ]
    base, aligned = policies
    metrics: dict[str, Any] = {}
    for answered in policies:
        metrics |= policy_metrics(f"policy.{answered.policy}", queries, answered.verdicts, answered.answers, intervals)
        errors = Sheets(root / "judges/sheets").error
        metrics |= corrected_metrics(f"policy.{answered.policy}", queries, answered.verdicts, errors, intervals)[0]
    metrics |= win_metrics(queries, [True] * len(queries), base.verdicts, aligned.verdicts, intervals)
    write_answers(artifacts / "evaluate/answers.parquet", queries, policies)

    keys = [(query.id, index) for query in queries for index in range(3)]
    own = {key: OwnCritique(f"{SCRIPT}I see it. Wrong.", -float(key[1])) for key in keys}
    variants = {
        "gt_critique": {key: -float(key[1]) for key in keys},
        "no_critique": {key: float(-key[1] if len(key[0]) % 2 else key[1]) for key in keys},
        "blank_image": {key: float(key[1]) for key in keys},
        "text_only": {key: float(key[1] == 1) for key in keys},
    }
    scores = {key: critique.score for key, critique in own.items()}
    implicit = {key: float(-key[1]) for key in keys}  # every pair in the ranks' order; text alone sees the worst pair of three wrong
    write_policy_results(artifacts / "evaluate/results/aligned.parquet", queries, aligned.verdicts, implicit, variants["text_only"])
    metrics |= preference_metrics(queries, implicit, intervals)
    metrics |= part_metrics(queries, policies, scores, variants["text_only"], intervals)
    metrics |= reward_metrics(queries, scores, intervals)
    for name, values in variants.items():
        metrics |= variant_metrics(name, queries, values, intervals)
    write_scores(artifacts / "evaluate/scores.parquet", queries, own, variants, ([True] * len(keys), [True] * len(keys)))
    heldout = {
        "id": [key[0] for key in keys],
        "response": pa.array([key[1] for key in keys], pa.int32()),
        "critique": [own[key].text for key in keys],
        "score": [own[key].score for key in keys],
    }
    (artifacts / "critique").mkdir()
    pq.write_table(pa.table(heldout), artifacts / "critique/heldout.parquet")

    chosen = choose(queries, base, aligned, 12)
    judgements = {answered.policy: [ShownCritique(f"{HANDLER}I see a thing. Wrong.", -1.25)] * len(chosen) for answered in policies}
    write_samples(artifacts / "evaluate/samples", root / "data/preferences", queries, chosen, policies, judgements)
    write_json(artifacts / "evaluate/metrics.json", metrics)


def _write_alignment(artifacts: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pairs = 400
    rows = {
        "id": [f"q{n}" for n in range(pairs)],
        "winner": pa.array([0] * pairs, pa.int32()),
        "loser": pa.array([1] * pairs, pa.int32()),
        "margin": [None if n % 40 == 0 else (n - 60) / 100 for n in range(pairs)],
        "beta": [min(0.15, 0.1 + 0.05 * max(0, n - 60) / 340) for n in range(pairs)],
        "policy_winner": [None if n % 8 == 3 else -10.0 + n / 40 for n in range(pairs)],
        "policy_loser": [None if n % 8 == 3 else -12.0 for n in range(pairs)],
        "reference_winner": [-9.0] * pairs,
        "reference_loser": [-11.0] * pairs,
    }
    (artifacts / "align").mkdir()
    pq.write_table(pa.table(rows), artifacts / "align/pairs.parquet")
    write_json(artifacts / "align/metrics.json", {"beta.share_at_floor": 0.15, "beta.share_at_cap": 0.0025, "beta.mean": 0.12})


def _write_validation(artifacts: Path) -> None:
    counts = {"rows": 1003, "quarantined": 3, "quarantined_share": 0.003, "queries": 700, "heldout_queries": 300, "mcq_queries": 140}
    write_json(artifacts / "validate/metrics.json", {**counts, "pairs": 3200, "heldout_pairs": 1400, "ties": 210, "heldout_ties": 90})
    refused = [
        {"file": "data/preferences/data.jsonl", "line": 7, "field": "prompt", "reason": f"holds {SCRIPT} and {HANDLER}"},
        {"file": "data/preferences/data.jsonl", "line": 9, "field": "image", "reason": "'a.png' does not exist"},
        {"file": "data/preferences/data.jsonl", "line": 12, "field": "image", "reason": "'b.png' does not exist"},
    ]
    (artifacts / "validate/quarantine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in refused))


def write_lock(root: Path) -> None:
    """dvc.lock with the settings of params.yaml, and an out or two."""
    settings = yaml.safe_load((root / "params.yaml").read_text())
    sections = {stage: {"align": "alignment"}.get(stage, stage) for stage in STAGE_NAMES}
    stages = {
        stage: {
            "cmd": f"mmalign stage {stage}",
            "deps": [{"path": "data/base", "md5": "b" * 32 + ".dir", "size": 4000000}],
            "params": {"params.yaml": {section: settings[section], "model.base": settings["model"]["base"]}},
            "outs": [{"path": f"artifacts/{stage}/metrics.json", "md5": "a" * 32, "size": 123}],
        }
        for stage, section in sections.items()
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def record_curves(root: Path) -> dict[str, str]:
    """Runs of the two training stages in MLflow, with their curves; stage to run id."""
    from components.tracking.recorder import Recorder

    runs = {}
    for stage, names in {
        "reward": ("loss/pair", "accuracy", "loss/critique"),
        "align": ("loss/preference", "rewards/accuracy", "rewards/chosen", "rewards/rejected"),
    }.items():
        path = root.parent / stage / "curves.jsonl"
        path.parent.mkdir()
        steps = [{"step": step, **{name: 1 / (step + index) for index, name in enumerate(names)}} for step in range(1, STEPS + 1)]
        path.write_text("".join(json.dumps(step) + "\n" for step in steps))
        recorder = Recorder.create(Checkout(root), stage, parent=None, tags={})
        recorder.artifact(path)
        recorder.end("FINISHED")
        runs[stage] = recorder.run_id
    assert not any(run_id.startswith("pending") for run_id in runs.values())
    return runs


def write_summary(root: Path, status: Any = "ok", *, failed: str | None = None, log: str | None = None, **more: Any) -> None:
    """reports/summary.json of a run in which `failed` failed and no later stage was reached."""
    stages, over = {}, False
    for index, stage in enumerate(STAGE_NAMES):
        over = over or stage == failed
        stages[stage] = StageRecord("failed" if stage == failed else "not_reached" if over else "ran", 0.0 if over else 10.0 + index)
    sha = git(root, "rev-parse", "HEAD").strip() if (root / ".git").is_dir() else None
    record = RunRecord(status, stages, seconds=75.0, data_version="f" * 32 + ".dir", git_sha=sha, failed_stage=failed, log=log)
    write_json(root / "reports/summary.json", {**summarize(record, root / "artifacts", read_judgements(Checkout(root))), **more})


def without_judges(root: Path) -> None:
    """Turn the evaluation into one of ranks alone: no judge decided, and the reward model compared the answers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = root / "artifacts/evaluate/answers.parquet"
    table = pq.read_table(path)
    blank = {"right": None, "safe": None, "refused": None, "hallucinated": None, "judge": ""}
    pq.write_table(pa.Table.from_pylist([{**row, **blank} for row in table.to_pylist()], schema=table.schema), path)
    metrics = read_json(path.parent / "metrics.json")
    unjudged = {key for key in metrics if re.match(r"(part\.hard\.)?policy\.(base|aligned)\.", key) and "degenerate" not in key}
    counts = {key: 0 for key in unjudged if ".counts." in key and not key.endswith("answers")}
    metrics |= {key: None for key in unjudged if ".counts." not in key} | counts
    metrics |= {"policy.win_rate": 0.6, "policy.win_rate_by_reward_model": 1, "policy.compared_reward_model": QUERIES}
    write_json(path.parent / "metrics.json", metrics)


VERDICT = Decision(
    True,
    (
        Finding(
            "conversation",
            "passed",
            "conversation: right answers rose by 20.0 points of champion 2",
            measure=Measure(0.75, 0.08, 0.31, 0.0, "low", 12, 12, 0.55, "champion 2", 0.2),
            raw=Interval(0.19, 0.09, 0.3, 0.1, 10.0, 12, 12),
        ),
        Finding(
            "unsafe",
            "passed",
            "unsafe: within the margin",
            measure=Measure(0.25, -0.3, 0.04, 0.05, "high", 3, 3, 0.5, "champion 2", -0.25),
        ),
        Finding("degenerate", "passed", "degenerate: none of 30", measure=Measure(0.0, 0.0, 0.01, 0.03, "high", 30, 30)),
        Finding("reference_answer", "off", f"reference_answer: switched off: {SCRIPT}"),
        Finding("ranks", "unfed", "ranks: does not apply"),
        Finding("data", "note", f"no more unsafe answers {SCRIPT}"),
    ),
)
REUSE = {
    "look": 3,
    "spends": 0.05 / 12,
    "left": 0.0125,
    "unsafe": {"rows": 3, "groups": 3, "margin": 0.05, "sees": 0.31, "next_look_sees": 0.33, "cure": f"put fresh rows in place {SCRIPT}"},
}
PROMOTED: dict[str, Any] = {
    "gate": {
        "promoted": True,
        "mm-policy": {
            "verdict": "promoted",
            "reasons": VERDICT.reasons,
            "rules": VERDICT.rules,
            "reuse": REUSE,
            "champion": {
                "version": 2,
                "conversation": 51.0,
                "unsafe_rate": 0.5,
                "over_refusal_rate": None,
                "hallucination_rate": 0.25,
                "degenerate_rate": 0.0,
            },
        },
        "mm-reward": {"verdict": "refused", "reasons": ["ACC of video is 41.0, below its floor of 55.0"]},
    },
    "registry": {
        "mm-policy": {"version": 3, "aliases": ["champion", "challenger"], "digest": "c" * 64},
        "mm-reward": {"version": 1, "aliases": [], "digest": None},
    },
}
