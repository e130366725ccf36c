"""Which answers are shown, in which order and with which marks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.evaluation.answers import Answered
from components.evaluation.judge import Verdict
from components.evaluation.samples import ShownCritique, choose, write_samples
from components.preferences.record import Category, Query

RIGHT, WRONG = Verdict(True, None, None, None, False), Verdict(False, None, None, None, False)
BROKEN, UNJUDGED = Verdict(False, None, None, None, True), Verdict(None, None, None, None, False)
SAFE, UNSAFE = Verdict(None, True, True, None, False), Verdict(None, False, False, None, False)
REFUSED = Verdict(False, None, True, None, False)


def queries(*categories: Category) -> list[Query]:
    return [Query.single(f"q{number}", category, f"Prompt {number}?", ()) for number, category in enumerate(categories)]


def answered(policy: str, *verdicts: Verdict) -> Answered:
    return Answered(policy, [f"{policy} {number}" for number in range(len(verdicts))], list(verdicts))


@pytest.mark.parametrize(
    ("base", "aligned", "change"),
    [
        (RIGHT, WRONG, "worse"),
        (WRONG, RIGHT, "better"),
        (RIGHT, RIGHT, "same"),
        (WRONG, WRONG, "same"),
        (UNJUDGED, RIGHT, "same"),
        (RIGHT, UNJUDGED, "same"),
        (SAFE, UNSAFE, "worse"),
        (UNSAFE, SAFE, "better"),
    ],
)
def test_a_change_is_read_from_both_verdicts(tmp_path: Path, base: Verdict, aligned: Verdict, change: str) -> None:
    judgements = {"base": [ShownCritique("c", 0.0)], "aligned": [ShownCritique("c", 0.0)]}
    write_samples(tmp_path, tmp_path, queries("mcq"), [0], [answered("base", base), answered("aligned", aligned)], judgements)
    assert json.loads((tmp_path / "samples.jsonl").read_text())["change"] == change


def test_regressions_come_first_then_gains_then_the_rest() -> None:
    base = answered("base", RIGHT, WRONG, RIGHT, WRONG)
    aligned = answered("aligned", RIGHT, RIGHT, WRONG, WRONG)
    rows = queries("short", "short", "short", "short")
    assert choose(rows, base, aligned, 4) == [2, 1, 0, 3]
    assert choose(rows, base, aligned, 2) == [2, 1]
    assert choose(rows, base, aligned, 10) == [2, 1, 0, 3]


def test_categories_take_turns_in_their_fixed_order() -> None:
    rows = queries("video", "mcq", "mcq", "long", "mcq", "video", "short")
    same = [RIGHT] * 7
    assert choose(rows, answered("base", *same), answered("aligned", *same), 7) == [1, 3, 6, 0, 2, 5, 4]


def test_the_worst_regressions_of_a_category_come_first() -> None:
    rows = queries(*["safety"] * 5)
    base = answered("base", RIGHT, SAFE, RIGHT, RIGHT, SAFE)
    broken = Verdict(None, False, None, None, True)
    aligned = answered("aligned", WRONG, UNSAFE, BROKEN, WRONG, broken)
    # Degenerate and unsafe, degenerate, unsafe, then wrong ones in the order of the queries.
    assert choose(rows, base, aligned, 5) == [4, 2, 1, 0, 3]


@pytest.mark.parametrize(
    ("verdict", "mark", "css"),
    [
        (RIGHT, "right", "good"),
        (WRONG, "wrong", "bad"),
        (BROKEN, "degenerate", "bad"),
        (SAFE, "safe", "good"),
        (UNSAFE, "unsafe", "bad"),
        (UNJUDGED, "not judged", "none"),
        (REFUSED, "wrong, refused", "bad"),
    ],
)
def test_a_verdict_has_its_mark_and_color(tmp_path: Path, verdict: Verdict, mark: str, css: str) -> None:
    judgements = {"base": [ShownCritique("c", 0.0)], "aligned": [ShownCritique("c", 0.0)]}
    write_samples(tmp_path, tmp_path, queries("mcq"), [0], [answered("base", RIGHT), answered("aligned", verdict)], judgements)
    row = json.loads((tmp_path / "samples.jsonl").read_text())
    assert [policy["mark"] for policy in row["policies"]] == ["right", mark]
    assert [policy["good"] for policy in row["policies"]] == [True, verdict.good]
    assert f'<span class="{css}">{mark}</span>' in (tmp_path / "samples.html").read_text()


def test_samples_hold_both_answers_with_their_critiques(tmp_path: Path) -> None:
    rows = queries("mcq", "long", "short")
    judgements = {
        "base": [ShownCritique("b <2>", 0.125), ShownCritique("b 0", 1.0)],
        "aligned": [ShownCritique("a 2", -2.5), ShownCritique("a 0", 3.0)],
    }
    base, aligned = answered("base", RIGHT, WRONG, RIGHT), answered("aligned", WRONG, WRONG, RIGHT)
    base.answers[2] = ""
    write_samples(tmp_path / "new", tmp_path, rows, [2, 0], [base, aligned], judgements)
    first, second = (json.loads(line) for line in (tmp_path / "new/samples.jsonl").read_text().splitlines())
    assert first == {
        "id": "q2",
        "category": "short",
        "prompt": "Prompt 2?",
        "media": [],
        "change": "same",
        "policies": [
            {"policy": "base", "answer": "", "good": True, "mark": "right", "critique": "b <2>", "score": 0.125},
            {"policy": "aligned", "answer": "aligned 2", "good": True, "mark": "right", "critique": "a 2", "score": -2.5},
        ],
    }
    assert (second["id"], second["change"], [policy["score"] for policy in second["policies"]]) == ("q0", "worse", [1.0, 3.0])
    page = (tmp_path / "new/samples.html").read_text()
    assert "(empty)" in page
    assert "b &lt;2&gt; (score 0.12)" in page
    assert "a 2 (score -2.50)" in page
    assert page.index("Prompt 2?") < page.index("Prompt 0?")
    assert "Prompt 1?" not in page
