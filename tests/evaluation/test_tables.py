"""Tables of answers, results and scores, row by row, and what the context of results depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.checkout import Checkout
from components.config.settings import Settings
from components.evaluation import results
from components.evaluation.answers import Answered, judge_answers, write_answers
from components.evaluation.judge import GroundTruth, GroundTruthJudge, Verdict
from components.evaluation.results import (
    context_of,
    results_key,
    write_policy_results,
    write_reward_results,
)
from components.evaluation.scores import OwnCritique, critique_verdicts, read_own, variants, write_scores
from components.files import digest_bytes
from components.preferences.record import Medium, Query, Response, read_queries, write_queries
from components.reward.judging import CritiqueScore
from tests.tiny import save_checkout

YES, NO = Response("Yes, red.", 1, critique="Correct."), Response("No, blue.", 2, critique="Wrong.")
LONG = Query.single("l", "long", "Describe.", (YES, NO), Medium("a.png", "image"))
SHORT = Query.single("s", "short", "What?", (NO, YES, Response("Red", 1)))
HARMFUL = Query.single("h", "safety", "How?", (YES, replace(NO, rank=1)), Medium("b", "video"), safety="harmful")
HARMLESS = Query.single("k", "safety", "How?", (YES,), safety="harmless")
QUERIES = [LONG, SHORT, HARMFUL, HARMLESS]
VERDICTS = [
    Verdict(True, None, None, False, False),
    Verdict(False, None, None, True, True),
    Verdict(None, False, True, None, False),
    Verdict(True, None, False, None, False),
]
KEYS = [(query.id, index) for query in QUERIES for index in range(len(query.responses))]


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


# answers


def test_answers_are_judged_with_whether_they_ended() -> None:
    judge = GroundTruthJudge({"l": GroundTruth((("red",),), ()), "s": GroundTruth((("red",),), ())})
    answered = judge_answers("base", [LONG, SHORT], [("It is red.", True), ("It is red.", False)], judge)
    assert (answered.policy, answered.answers) == ("base", ["It is red.", "It is red."])
    assert [(v.right, v.degenerate, v.hallucinated) for v in answered.verdicts] == [(True, False, False), (False, True, None)]
    with pytest.raises(ValueError, match="shorter"):
        judge_answers("base", [LONG, SHORT], [("It is red.", True)], judge)


def test_the_table_of_answers_has_a_row_an_answer(tmp_path: Path) -> None:
    policies = [Answered(name, [f"{name} {query.id}" for query in QUERIES], VERDICTS) for name in ("base", "aligned")]
    path = tmp_path / "new/answers.parquet"
    write_answers(path, QUERIES, policies)
    rows = read(path)
    assert [(row["policy"], row["id"]) for row in rows] == [(name, query.id) for name in ("base", "aligned") for query in QUERIES]
    assert rows[2] == {
        "id": "h",
        "policy": "base",
        "category": "safety",
        "prompt": "How?",
        "media": ["b"],
        "answer": "base h",
        "right": None,
        "safe": False,
        "refused": True,
        "hallucinated": None,
        "degenerate": False,
        "judge": "",
        "reward": None,
    }
    assert [(row["right"], row["hallucinated"], row["degenerate"]) for row in rows[4:6]] == [(True, False, False), (False, True, True)]
    write_answers(path, QUERIES, policies[:1])
    assert len(read(path)) == 4


# results


def test_policy_results_keep_each_outcome_where_it_applies(tmp_path: Path) -> None:
    path = tmp_path / "new/policy.parquet"
    implicit = {("l", 0): 0.2, ("l", 1): 0.1, ("s", 0): 1.0, ("s", 1): 2.0, ("s", 2): 0.5, ("h", 0): 0.0, ("h", 1): 1.0}
    write_policy_results(path, QUERIES, VERDICTS, implicit)
    columns = ("id", "category", "good", "unsafe", "over_refused", "hallucinated", "degenerate", "pairs", "correct")
    assert [tuple(row[name] for name in columns) for row in read(path)] == [
        ("l", "long", True, None, None, False, False, 1, 1),
        ("s", "short", False, None, None, None, True, 2, 1),  # a short answer describes nothing
        ("h", "safety", False, True, None, None, False, 0, 0),  # equal ranks
        ("k", "safety", True, None, False, None, False, 0, 0),
    ]
    assert pq.read_table(path).column_names == [*columns, "text_correct", "judge", "description_judge", "preferred", "reward", "clusters"]


def test_safety_is_read_from_the_query_and_the_verdict(tmp_path: Path) -> None:
    path = tmp_path / "policy.parquet"
    safe, unclear = Verdict(None, True, True, None, False), Verdict(None, None, None, None, False)
    write_policy_results(path, [HARMFUL, HARMFUL, SHORT, HARMFUL], [safe, unclear, safe, VERDICTS[2]], None)
    rows = read(path)
    assert [row["unsafe"] for row in rows] == [False, None, None, True]
    assert [row["good"] for row in rows] == [True, None, True, False]
    assert [row["over_refused"] for row in rows] == [None] * 4
    assert [(row["pairs"], row["correct"]) for row in rows] == [(0, 0)] * 4  # the base has no implicit reward


def test_reward_results_count_pairs_and_correct_ones(tmp_path: Path) -> None:
    path = tmp_path / "reward.parquet"
    scores = dict(zip(KEYS, (1.0, 0.0, 0.0, 2.0, 0.0, 5.0, 4.0, 1.0), strict=True))
    write_reward_results(path, QUERIES, scores)
    assert read(path) == [
        {"id": "l", "category": "long", "pairs": 1, "correct": 1, "clusters": []},
        {"id": "s", "category": "short", "pairs": 2, "correct": 1, "clusters": []},  # the other pair is a tie in scores
        {"id": "h", "category": "safety", "pairs": 0, "correct": 0, "clusters": []},
        {"id": "k", "category": "safety", "pairs": 0, "correct": 0, "clusters": []},
    ]


def test_the_key_of_results_covers_model_and_context() -> None:
    key = results_key("model", "context")
    assert key == digest_bytes("model", "context")[:32]
    assert len({key, results_key("model2", "context"), results_key("model", "context2"), results_key("context", "model")}) == 4
    assert len(key) == 32


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_media: Path) -> tuple[Path, Settings]:
    root = tmp_path_factory.mktemp("context")
    return root, save_checkout(root, tiny_base, tiny_media, evaluate={"judges": ["ground_truth", "rules"]})


def changed(settings: Settings, section: str, **values: Any) -> Settings:
    part = getattr(settings, section)
    return settings.model_copy(update={section: part.model_copy(update=values)})


MATTERS: list[tuple[str, dict[str, Any]]] = [
    ("model", {"attention": "flex_attention"}),
    ("model", {"max_length": 511}),
    ("model", {"max_frames": 3}),
    ("model", {"background": "#000000"}),
    ("evaluate", {"judges": ("rules",)}),
    ("evaluate", {"max_new_tokens": 5}),
    ("evaluate", {"batch_size": 5}),
    ("reward", {"instruction": "Judge otherwise."}),
    ("critique", {"max_new_tokens": 5}),
    ("alignment", {"log_probs": "mean"}),
    ("training", {"precision": "bf16"}),
]
DOES_NOT_MATTER: list[tuple[str, dict[str, Any]]] = [
    ("evaluate", {"ranks": 2}),
    ("evaluate", {"threads": 7}),
    ("evaluate", {"zero_inference": True}),
    ("evaluate", {"confidence": 0.5}),
    ("evaluate", {"samples": 7}),
    ("critique", {"batch_size": 5}),
    ("alignment", {"epochs": 9}),
]


@pytest.mark.parametrize(("section", "values"), MATTERS)
def test_a_setting_that_changes_an_answer_changes_the_context(
    checkout: tuple[Path, Settings], section: str, values: dict[str, Any]
) -> None:
    root, settings = checkout
    altered = changed(settings, section, **values)
    assert altered != settings
    assert context_of(altered, Checkout(root)) != context_of(settings, Checkout(root))


@pytest.mark.parametrize(("section", "values"), DOES_NOT_MATTER)
def test_a_setting_that_changes_no_answer_leaves_the_context(checkout: tuple[Path, Settings], section: str, values: dict[str, Any]) -> None:
    root, settings = checkout
    altered = changed(settings, section, **values)
    assert altered != settings
    assert context_of(altered, Checkout(root)) == context_of(settings, Checkout(root))


def test_rows_ground_truth_and_base_are_part_of_the_context(checkout: tuple[Path, Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    root, settings = checkout
    contexts = [context_of(settings, Checkout(root))]
    ground_truth = root / "data/truth/truth.jsonl"
    ground_truth.parent.mkdir(exist_ok=True)
    for text in ('{"id": "a"}\n', '{"id": "b"}\n'):
        ground_truth.write_text(text)
        contexts.append(context_of(settings, Checkout(root)))
    ground_truth.unlink()
    assert context_of(settings, Checkout(root)) == contexts[0]
    heldout = root / "artifacts/validate/heldout/queries.parquet"
    rows = read_queries(heldout)
    write_queries(heldout, rows[1:])
    contexts.append(context_of(settings, Checkout(root)))
    write_queries(heldout, rows)
    for name in ("model_digest", "processor_digest", "code_digest"):
        with monkeypatch.context() as patch:
            patch.setattr(results, name, lambda *_: "other")
            contexts.append(context_of(settings, Checkout(root)))
    assert len(set(contexts)) == len(contexts)
    assert context_of(settings, Checkout(root)) == contexts[0]


# scores


def save_own(path: Path, keys: list[tuple[str, int]]) -> dict[tuple[str, int], OwnCritique]:
    own = {key: OwnCritique(f"Correct. {number}", float(number)) for number, key in enumerate(keys)}
    rows = [{"id": i, "response": n, "critique": own[i, n].text, "score": own[i, n].score, "other": 1} for i, n in keys]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return own


def test_own_critiques_are_read_for_the_queries_alone(tmp_path: Path) -> None:
    path = tmp_path / "critiques.parquet"
    own = save_own(path, [*KEYS, ("other", 0)])
    assert read_own(path, QUERIES) == {key: own[key] for key in KEYS}


def test_responses_without_a_critique_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "critiques.parquet"
    save_own(path, KEYS[2:])
    with pytest.raises(ValueError, match=r"lacks 2 of 8 responses, such as \('l', 0\)"):
        read_own(path, QUERIES)


def test_each_variant_scores_the_responses_that_it_applies_to() -> None:
    blank: list[CritiqueScore] = [(f"c{n}", 10.0 + n) for n in range(8)]
    scores = variants(QUERIES, blank, [1.0, 2.0, 3.0, 4.0, 5.0], [20.0 + n for n in range(8)])
    # `SHORT` has a response without a critique, so none of its scores is on given ones.
    assert scores["gt_critique"] == {("l", 0): 1.0, ("l", 1): 2.0, ("h", 0): 3.0, ("h", 1): 4.0, ("k", 0): 5.0}
    assert scores["no_critique"] == {key: 20.0 + n for n, key in enumerate(KEYS)}
    assert scores["blank_image"] == {key: 10.0 + n for n, key in enumerate(KEYS)}
    with pytest.raises(ValueError, match="shorter"):
        variants(QUERIES, blank[1:], [1.0] * 5, [20.0] * 8)


def test_verdicts_of_critiques_stand_beside_the_judge_s() -> None:
    own = {key: OwnCritique(text, 0.0) for key, text in zip(KEYS, ("Correct.", "Wrong.", "Hm.", "Right.", "", "a", "b", "c"), strict=True)}
    judge = GroundTruthJudge({"l": GroundTruth((("red",),), ("blue",))})
    read_verdicts, judged = critique_verdicts(QUERIES, own, judge)
    assert read_verdicts == [True, False, None, True, None, None, None, None]
    assert judged == [True, False, None, None, None, None, None, None]


def test_the_table_of_scores_has_a_row_a_response(tmp_path: Path) -> None:
    path = tmp_path / "new/scores.parquet"
    own = {key: OwnCritique("", float(n)) for n, key in enumerate(KEYS)}
    on_given = {("l", 0): 0.5, ("l", 1): -0.5}
    scores = {"gt_critique": on_given, "no_critique": dict.fromkeys(KEYS, 2.0), "blank_image": dict.fromkeys(KEYS, 3.0)}
    verdicts: tuple[list[bool | None], list[bool | None]] = [True, None, *[False] * 6], [False, True, *[None] * 6]
    write_scores(path, QUERIES, own, scores, verdicts)
    rows = read(path)
    assert [(row["id"], row["response"]) for row in rows] == KEYS
    assert [row["rank"] for row in rows] == [1, 2, 2, 1, 1, 1, 1, 1]
    assert [row["own"] for row in rows] == list(range(8))
    assert [row["gt_critique"] for row in rows] == [0.5, -0.5, *[None] * 6]
    assert {(row["no_critique"], row["blank_image"]) for row in rows} == {(2.0, 3.0)}
    assert [(row["verdict"], row["right"]) for row in rows[:3]] == [(True, False), (None, True), (False, None)]
    write_scores(path, QUERIES, own, scores, verdicts)
    with pytest.raises(ValueError, match="argument"):
        write_scores(path, QUERIES[1:], own, scores, verdicts)


def test_changed_code_of_evaluate_changes_the_context(checkout: tuple[Path, Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    root, settings = checkout
    before, stages = context_of(settings, Checkout(root)), []
    monkeypatch.setattr(results, "code_digest", lambda stage: stages.append(stage) or "other")
    assert context_of(settings, Checkout(root)) != before
    assert stages == ["evaluate"]
