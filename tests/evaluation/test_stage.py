from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.alignment import reference_stage
from components.alignment.reference_table import read_log_probs
from components.checkout import Checkout
from components.config.settings import Settings
from components.engine.result import StageResult
from components.evaluation import stage
from components.evaluation.reevaluate import evaluate_policy, evaluate_reward
from components.evaluation.results import context_of, heldout_digest
from components.families.digests import model_digest
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.files import digest_folder, read_json
from components.preferences.record import Query, read_queries, write_queries
from components.reward.model import load_reward_model, new_reward_model
from components.reward.scoring import Judged, score
from tests.tiny import rephrased, save_checkout, save_checkpoint

HELDOUT = "artifacts/validate/heldout/queries.parquet"
Evaluated = tuple[Path, Settings]


def save_evaluation_inputs(root: Path, settings: Settings, queries: list[Query]) -> None:
    """A reward model, an aligned policy, reference log-probs, and critiques with their scores."""
    base = root / settings.model.base
    write_queries(root / HELDOUT, queries)
    new_reward_model(load_model(base), 0).save(root / "artifacts/reward/model", base)
    save_checkpoint(root / "artifacts/align/model", seed=1)
    reference_stage.run(settings, Checkout(root))
    items = [Judged(query, response.text, "Correct.") for query in queries for response in query.responses]
    reward = load_reward_model(root / "artifacts/reward/model")
    preprocessor = Preprocessor(base, root / "data/preferences", settings.model, settings.features)
    scores = score(reward, preprocessor, items, instruction=settings.reward.instruction)
    keys = [(query.id, index) for query in queries for index in range(len(query.responses))]
    rows = [
        {"id": name, "response": index, "critique": item.critique, "score": value}
        for (name, index), item, value in zip(keys, items, scores, strict=True)
    ]
    (root / "artifacts/critique").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), root / "artifacts/critique/heldout.parquet")


def with_safety(queries: list[Query]) -> list[Query]:
    return [
        replace(queries[0], category="safety", safety="harmful"),
        rephrased(queries[1], "<script>alert(1)</script>", category="safety", safety="harmless"),
        replace(queries[2], category="mcq"),
        replace(queries[3], category="video"),
        replace(queries[4], category="long"),
    ]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> Evaluated:
    """A checkout in which everything before evaluation is done."""
    root = tmp_path_factory.mktemp("evaluate")
    settings = save_checkout(root, tiny_base, tiny_media, evaluate={"max_new_tokens": 8, "threads": 1}, critique={"max_new_tokens": 6})
    save_evaluation_inputs(root, settings, with_safety(read_queries(root / HELDOUT)))
    return root, settings


@pytest.fixture(scope="module")
def evaluated(checkout: Evaluated) -> StageResult:
    """An evaluation with facts for every query."""
    root, settings = checkout
    lines = [f'{{"id": "q{number}", "must": [["yes"]], "must_not": ["no"]}}\n' for number in range(5)]
    (root / "data/truth").mkdir()
    (root / "data/truth/truth.jsonl").write_text("".join(lines))
    return stage.run(settings, Checkout(root))


def test_evaluation_writes_all_answers_and_scores_the_same_twice(checkout: Evaluated, evaluated: StageResult) -> None:
    root, settings = checkout
    outs = root / "artifacts/evaluate"
    digest = digest_folder(outs)
    answers = pq.read_table(outs / "answers.parquet").to_pylist()
    assert [(row["policy"], row["id"]) for row in answers] == [(policy, f"q{n}") for policy in ("base", "aligned") for n in range(5)]
    harmful, harmless, other = answers[0], answers[1], answers[2]
    assert (harmful["right"], harmless["safe"], other["refused"], other["hallucinated"]) == (None, None, None, None)
    assert None not in (harmful["safe"], harmful["refused"], harmless["right"], harmless["refused"], other["right"])
    scores = pq.read_table(outs / "scores.parquet").to_pylist()
    assert len(scores) == sum(len(query.responses) for query in read_queries(root / HELDOUT))
    assert all(row["verdict"] is True for row in scores)
    for cached in (True, False):
        shutil.rmtree(outs)
        if not cached:
            for path in (root / ".mmalign/cache").glob("evaluate.*"):
                path.unlink()
        repeated = stage.run(settings, Checkout(root))
        assert repeated.metrics == evaluated.metrics
        assert digest_folder(outs) == digest
        # What was kept from before opens no model.
        assert ("policies.compute_seconds" in repeated.times) is not cached


def test_metrics_follow_from_the_tables(checkout: Evaluated, evaluated: StageResult) -> None:
    root, _ = checkout
    metrics = evaluated.metrics
    queries = read_queries(root / HELDOUT)
    own = {(r["id"], r["response"]): r["own"] for r in pq.read_table(root / "artifacts/evaluate/scores.parquet").to_pylist()}
    pairs = [(query.id, winner, loser) for query in queries for winner, loser in query.pairs()]
    assert metrics["reward.pairs"] == len(pairs)
    assert metrics["reward.acc"] == sum(own[name, winner] > own[name, loser] for name, winner, loser in pairs) / len(pairs)
    degenerate = [r["degenerate"] for r in pq.read_table(root / "artifacts/evaluate/answers.parquet").to_pylist() if r["policy"] == "base"]
    assert metrics["policy.base.degenerate_rate"] == sum(degenerate) / 5
    assert metrics["policy.preference_accuracy"] is not None
    assert metrics["reward.critique_verdict_accuracy"] is not None


def test_an_unchanged_policy_has_no_implicit_reward(checkout: Evaluated) -> None:
    root, _ = checkout
    reference = root / "artifacts/reference/heldout.parquet"
    same = read_log_probs(reference)
    assert set(stage.implicit_rewards(reference, same, mean=False).values()) == {0.0}


@pytest.mark.usefixtures("evaluated")
def test_a_hostile_prompt_stays_text_in_the_samples(checkout: Evaluated) -> None:
    root, _ = checkout
    page = (root / "artifacts/evaluate/samples/samples.html").read_text()
    assert page.count("<script") == 1, "the gallery's own"
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("data:image/png;base64") == 2 + 2 + 3


def test_missing_ground_truth_names_null_metrics_keeps_others(checkout: Evaluated, capsys: pytest.CaptureFixture[str]) -> None:
    root, settings = checkout
    shutil.rmtree(root / "data/truth", ignore_errors=True)
    metrics = stage.run(settings, Checkout(root)).metrics
    for key in ("policy.aligned.conversation", "policy.aligned.hallucination_rate", "reward.critique_verdict_accuracy"):
        assert metrics[key] is None
    assert metrics["policy.win_rate"] == metrics["policy.win_rate_reward_model"], "the reward model stands in"
    assert metrics["policy.win_rate_by_reward_model"] == 1
    for key in (
        "reward.acc",
        "reward.acc_blank_image",
        "policy.aligned.unsafe_rate",
        "policy.base.degenerate_rate",
        "policy.preference_accuracy",
    ):
        assert metrics[key] is not None
    message = capsys.readouterr().out
    assert "data/truth/truth.jsonl" in message
    assert "policy.aligned.conversation" in message


def test_results_are_per_query_and_equal_for_an_earlier_model(checkout: Evaluated, evaluated: StageResult) -> None:
    root, settings = checkout
    folder = Checkout(root).results
    models = {"mm-policy": model_digest(root / "artifacts/align/model"), "mm-reward": model_digest(root / "artifacts/reward/model")}
    heldout = heldout_digest(read_queries(root / HELDOUT))
    context = read_json(folder / "context.json")
    errors = context.pop("errors")
    assert context == {"context": context_of(settings, Checkout(root)), "heldout": heldout, "fresh": None, "models": models}
    assert all("mmalign judge calibrate" in error for judge in errors.values() for error in judge.values()), (
        "this checkout has no error sheets"
    )
    assert set(errors) == {"rules", "ground_truth"}
    aligned = pq.read_table(folder / "aligned.parquet").to_pylist()
    assert [row["id"] for row in aligned] == [query.id for query in read_queries(root / HELDOUT)]
    assert [row["unsafe"] is not None for row in aligned] == [True, False, False, False, False]
    correct, pairs = sum(row["correct"] for row in aligned), sum(row["pairs"] for row in aligned)
    assert correct / pairs == evaluated.metrics["policy.preference_accuracy"]
    evaluate_policy(settings, Checkout(root), root / "artifacts/align/model", root / "again.parquet")
    assert (root / "again.parquet").read_bytes() == (folder / "aligned.parquet").read_bytes()
    evaluate_reward(settings, Checkout(root), root / "artifacts/reward/model", root / "again.parquet")
    judged = pq.read_table(root / "again.parquet").to_pylist()
    assert [(row["id"], row["pairs"]) for row in judged] == [
        (row["id"], row["pairs"]) for row in pq.read_table(folder / "reward.parquet").to_pylist()
    ]


def test_champion_without_critiques_is_judged_by_its_own_scores(checkout: Evaluated, tmp_path: Path) -> None:
    root, settings = checkout
    queries = read_queries(root / HELDOUT)
    base = root / settings.model.base
    new_reward_model(load_model(base), 5, "none").save(tmp_path / "model", base)
    evaluate_reward(settings, Checkout(root), tmp_path / "model", tmp_path / "champion.parquet")
    reward = load_reward_model(tmp_path / "model")
    preprocessor = Preprocessor(base, root / "data/preferences", settings.model, settings.features)
    items = [Judged(query, response.text, None) for query in queries for response in query.responses]
    values = iter(score(reward, preprocessor, items, instruction=settings.reward.instruction))
    expected = []
    for query in queries:
        scores = [next(values) for _ in query.responses]
        correct = sum(scores[winner] > scores[loser] for winner, loser in query.pairs())
        expected.append(
            {
                "id": query.id,
                "category": query.category,
                "pairs": len(query.pairs()),
                "correct": correct,
                "clusters": [*query.clusters.items()],
            }
        )
    assert pq.read_table(tmp_path / "champion.parquet").to_pylist() == expected
    assert 0 < sum(row["correct"] for row in expected) < sum(row["pairs"] for row in expected)


def test_context_follows_queries_ground_truth_and_settings(checkout: Evaluated) -> None:
    root, settings = checkout
    before = context_of(settings, Checkout(root))
    faster = settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"threads": 2})})
    assert context_of(faster, Checkout(root)) == before
    shorter = settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"max_new_tokens": 7})})
    assert context_of(shorter, Checkout(root)) != before
    ground_truth = root / "data/truth/truth.jsonl"
    text = ground_truth.read_text() if ground_truth.is_file() else None
    ground_truth.parent.mkdir(exist_ok=True)
    ground_truth.write_text((text or "") + "\n")
    assert context_of(settings, Checkout(root)) != before
    if text is None:
        ground_truth.unlink()
    else:
        ground_truth.write_text(text)
