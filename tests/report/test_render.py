from __future__ import annotations

import html
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.checkout import Checkout
from components.errors import UserError
from components.files import read_json, write_json
from components.report.record import read_record
from components.report.render import render_report
from components.report.summary import not_judged
from components.report.verdict import read_verdict
from components.report.wording import MINUS
from tests.checkout import ROOT
from tests.report.conftest import PROMOTED, REUSE, VERDICT, without_judges, write_summary


def rendered(root: Path) -> str:
    """The page's text without its markup."""
    page = render_report(Checkout(root)).read_text()
    body = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page[page.index("<body>") :], flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(body))


def test_finished_run_is_shown_completely(run: Path) -> None:
    write_summary(run, **PROMOTED)
    text = rendered(run)
    assert "Promoted: mm-policy version 3 is the new champion." in text
    assert "ACC of video is 41.0, below its floor of 55.0" in text
    assert "mm-reward refused version 1" in text
    assert (
        "12 queries, more is better Judge: ground truth, agrees with 100.0 % (98.4 to 100.0) of 230 labels 50.0 51.0 100.0 all of 12"
        in text
    )
    assert "right answers, long and short, corrected for the judge's error 50.0 100.0" in text
    assert (
        "conversation 12 queries in 12 groups 75.0 55.0 champion 2 +20.0 +8.0 to +31.0 raw +19.0: +9.0 to +30.0 above 0.0 for the lower end holds"
        in text
    )
    assert "this is look 3" in text
    assert "error left for later looks 1.2 %" in text
    assert "31.0 points with power .8, by 3 harmful requests in 3 groups; the margin is 5.0" in text
    agreement = read_json(ROOT / "judges/sheets/rules.json")["overall"]["agreement"]
    value, low, high = (f"{100 * agreement[key]:.1f}" for key in ("value", "low", "high"))
    assert f"rules, 12 answers, agrees with {value} % ({low} to {high}) of {agreement['n']} labels" in text
    assert "policy above the baseline +66.7 +51.7 to +73.3" in text
    assert "What is missing" not in text
    assert "Loss on pairs over 80 steps: from 1.000 to 0.013." in text
    assert "Of 30 held-out queries judged for both policies, alignment broke 3 and repaired 12" in text
    assert "drawn by a program, ranked by a rule 0 17" in text
    assert "The hard part" in text
    assert "image: '…' does not exist 2 data/preferences/data.jsonl, line 9" in text
    assert "390 pairs" in text
    assert "10 pairs have no margin" in text
    assert "can't be read" not in text


def test_page_says_what_the_reward_model_was_trained_on(run: Path) -> None:
    write_json(run / "artifacts/reward/run.json", {"digests": {"critique_source": "mixed"}})
    write_summary(run)
    assert "It was trained on critiques (mixed)." in rendered(run)
    write_json(run / "artifacts/reward/run.json", {"digests": {"critique_source": "none"}})
    path = run / "artifacts/evaluate/samples/samples.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in entries:
        entry["policies"] = [{**policy, "critique": None} for policy in entry["policies"]]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    write_summary(run)
    text = rendered(run)
    assert "It was trained without critiques and scores a response alone." in text
    assert "ACC and ACC+ on the response alone." in text
    assert "own critiques" not in text
    assert f"Reward model, {MINUS}1.25 " in text, "a score is shown without a critique"
    assert ": None" not in text


def test_page_needs_no_other_file(run: Path) -> None:
    path = render_report(Checkout(run))
    assert path == run / "reports/report.html"
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.html", "summary.json"]
    assert path.read_text().rstrip().endswith("</html>")


MISSING = {
    "artifacts/evaluate/answers.parquet": "No query has judged answers of both policies.",
    "artifacts/evaluate/metrics.json": "The evaluation wrote no metrics of the reward model.",
    "artifacts/evaluate/scores.parquet": "without critiques",
    "artifacts/evaluate/samples": "Right before, wrong now",
    "artifacts/critique/heldout.parquet": "3 ranked responses",
    "artifacts/validate/heldout": "Right before, wrong now",
    "artifacts/validate/metrics.json": "Validation wrote no counts.",
    "artifacts/validate/quarantine.jsonl": "The reasons of 3 refused rows are missing.",
    "artifacts/align/pairs.parquet": "The table of pairs (artifacts/align/pairs.parquet) is missing.",
    "artifacts/align/run.json": "Stage align left no id of its MLflow run",
    "data/preferences": "does not exist",
    "params.yaml": "params.yaml is missing.",
    "mlflow.db": "This checkout has no tracking store (mlflow.db), so the curves of stage reward are missing.",
    "dvc.lock": "Margins of the reward model",
    ".git": "git has no committed params.yaml to compare with.",
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_file_is_omitted_and_named(run: Path, name: str) -> None:
    write_summary(run)
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert MISSING[name] in rendered(run)


@pytest.mark.parametrize("name", ["evaluate/answers.parquet", "evaluate/metrics.json", "validate/quarantine.jsonl", "align/pairs.parquet"])
def test_truncated_file_is_named_and_rest_is_shown(run: Path, name: str) -> None:
    path = run / "artifacts" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    text = rendered(run)
    assert f"artifacts/{name} can't be read" in text
    assert "Lineage and times" in text


def test_lock_with_conflict_is_named(run: Path) -> None:
    (run / "dvc.lock").write_text("<<<<<<< ours\nstages: {}\n=======\nstages: [\n")
    text = rendered(run)
    assert "dvc.lock is not valid YAML" in text
    assert "Margins of the reward model" in text


def test_page_renders_from_summary_only(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    (bare / "reports").mkdir(parents=True)
    shutil.copy(run / "reports/summary.json", bare / "reports")
    assert "The run succeeded" in rendered(bare)
    assert not (bare / "mlflow.db").exists()


def test_page_renders_from_partial_summary(run: Path) -> None:
    empty = {"schema": 1, "status": "ok", "stages": {}, "gate": None, "registry": {"mm-policy": None}, "policy": None}
    write_json(run / "reports/summary.json", empty)
    assert "The run succeeded; no gate has judged its models." in rendered(run)


def test_missing_summary_names_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `mmalign run` first"):
        render_report(Checkout(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", '{"status": "ok"}'])
def test_broken_summary_is_one_sentence(run: Path, text: str) -> None:
    (run / "reports/summary.json").write_text(text)
    with pytest.raises(UserError, match=r"summary\.json is n"):
        render_report(Checkout(run))


def test_failed_run_shows_failure_and_no_earlier_metrics(run: Path) -> None:
    log = run / "logs/x/reward.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number}\n" for number in range(100)) + "\x1b[31mRuntimeError\x1b[0m: no memory\n")
    write_json(run / ".mmalign/attempts/reward.json", {"mark": "m", "mistake": "data/base is missing: fetch it"})
    write_summary(run, "failed", failed="reward", log="logs/x/reward.log")
    text = rendered(run)
    assert "Stage reward failed after 1 min 15 s: this run produced no model." in text
    assert "data/base is missing: fetch it" in text
    assert "Its log: logs/x/reward.log" in text
    assert "RuntimeError: no memory" in text
    assert "line 10 " not in text
    assert "Stage evaluate did not finish in this run, so the page has no metrics" in text
    assert "right answers" not in text
    assert "Rows that passed validation." in text


def test_log_outside_checkout_is_named_but_not_read(run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret")
    write_summary(run, "failed", failed="align", log="../secret")
    text = rendered(run)
    assert "Its log: ../secret" in text
    assert "the secret" not in text


def test_cancelled_run_is_not_shown_as_failure(run: Path) -> None:
    write_summary(run, "cancelled", failed="align")
    assert "The run was cancelled in stage align after 1 min 15 s; the next run continues from there." in rendered(run)


def test_first_run_says_that_no_champion_exists(run: Path) -> None:
    rule = {**VERDICT.rules[0], "measure": {**VERDICT.rules[0]["measure"], "against": "the base"}}
    write_summary(run, **gate("promoted", rules=[rule]))
    text = rendered(run)
    assert "mm-policy against the base There is no champion yet, so the rules compare with the base." in text
    assert "champion 2" not in text


def test_refused_run_shows_failed_rules_first(run: Path) -> None:
    failed = {"rule": "unsafe_ceiling", "outcome": "failed", "sentence": "unsafe_ceiling: too few rows: add some"}
    reasons = [failed["sentence"], *VERDICT.reasons]
    write_summary(run, **gate("refused", reasons=reasons, rules=[*VERDICT.rules, failed]))
    text = rendered(run)
    assert "mm-policy refused unsafe_ceiling: too few rows: add some no more unsafe answers" in text
    assert "5 more sentences of the verdict, rule by rule" in text
    assert "rule's number result unsafe ceiling too few rows: add some fails conversation 12 queries" in text


def test_verdict_of_earlier_run_has_no_rules(run: Path) -> None:
    write_summary(run, **gate("nothing_new", reasons=["version 1 is the champion already"], reuse=REUSE))
    text = rendered(run)
    assert "An earlier run judged this model; that run's page has the numbers of the rules." in text
    assert "this is look 3" in text


def test_run_without_judged_answers_says_what_is_missing(run: Path) -> None:
    without_judges(run)
    write_summary(run)
    text = rendered(run)
    assert "What is missing: No judge decided on an answer of this run" in text
    assert "right answers, long and short: no held-out answer of this kind was judged; add ground truth of held-out queries" in text
    assert "unsafe answers to harmful requests: no held-out answer of this kind was judged; mark harmful requests" in text
    assert "corrected for the judge's error" not in text
    assert "Judge: reward model, agrees with 100.0 % (88.4 to 100.0) of 90 held-out pairs of ranked responses." in text
    assert "not that people agree" in text
    assert "policy above the baseline +66.7" in text, "ranks need no judge"


def test_missing_error_sheet_is_named_with_command(run: Path) -> None:
    (run / "judges/sheets/ground_truth.json").unlink()
    path = run / "artifacts/evaluate/metrics.json"
    write_json(path, {key: None if "_corrected" in key else value for key, value in read_json(path).items()})
    write_summary(run)
    text = rendered(run)
    assert "Judge: ground truth, error not measured" in text
    assert "right answers, long and short, corrected: judge 'ground_truth' has no error sheet" in text
    assert text.count("run `mmalign judge calibrate --judge ground_truth --labels FILE --save`") > 1
    assert "Judge: rules, agrees with" in text, "the other judge has its sheet"


def test_summary_without_judges_is_named(run: Path) -> None:
    write_summary(run, judges=None)
    assert "The run's summary names no judges: the version that wrote it did not record them." in rendered(run)


def gate(verdict: str, **more: Any) -> dict[str, Any]:
    return {"gate": {"mm-policy": {"verdict": verdict, "reasons": [], "rules": [], **more}, "promoted": verdict == "promoted"}}


def test_reason_for_missing_verdict_is_shown(run: Path) -> None:
    write_summary(run, **not_judged(ValueError("the registry is away")))
    assert "mm-policy not judged the registry is away" in rendered(run)


@pytest.mark.parametrize(
    ("more", "tone", "sentence"),
    [
        ({}, "plain", "The run succeeded; no gate has judged its models."),
        (not_judged(ValueError("the registry is away")), "warn", "The run succeeded, but its models were not judged."),
        (gate("promoted"), "good", "Promoted: the aligned policy is the new champion."),
        (gate("refused"), "warn", "Refused: the aligned policy is not promoted, and the champion does not change."),
        (gate("refused", champion={"version": 4}), "warn", "Refused: the aligned policy is not promoted, and version 4 stays champion."),
        (gate("nothing_new"), "plain", "Nothing new to promote: the aligned policy has its verdict already."),
    ],
)
def test_verdict_is_one_sentence(run: Path, more: dict[str, Any], tone: str, sentence: str) -> None:
    write_summary(run, **more)
    verdict = read_verdict(read_record(Checkout(run)))
    assert (verdict.tone, verdict.sentence) == (tone, sentence)


def test_page_without_store_omits_curves(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    text = rendered(run)
    assert "The tracking store failed to return the curves of run" in text
    assert "Answers side by side" in text


def test_page_leaves_no_temporary_file(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert "Loss on pairs over 80 steps" in rendered(run)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_unrecorded_run_is_named_as_such(run: Path) -> None:
    path = run / "artifacts/reward/run.json"
    write_json(path, {**read_json(path), "mlflow_run_id": "pending-0123"})
    assert "The tracking store was away while stage reward ran" in rendered(run)


def test_large_photographs_stay_within_page_size(run: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    for path in (run / "data/preferences").rglob("*.png"):
        Image.fromarray(noise).save(path)
    assert render_report(Checkout(run)).stat().st_size < 3_000_000


def test_lone_surrogate_does_not_stop_page(run: Path) -> None:
    write_summary(run)
    path = run / "reports/summary.json"
    path.write_text(
        path.read_text().replace('"schema": 1', '"schema": 1, "gate": {"mm-policy": {"verdict": "refused", "reasons": ["\\ud800 bad"]}}')
    )
    assert "\\ud800 bad" in rendered(run)
