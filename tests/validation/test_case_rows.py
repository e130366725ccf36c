"""Small inputs that broke the pipeline once (tests/cases), through the real stage."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.engine.result import StageResult
from components.errors import UserError
from tests.conftest import ROOT
from tests.validation.conftest import DataCheckout

CASES = ROOT / "tests/cases"
LENIENT = {"max_quarantined_share": 1.0}


def put(checkout: DataCheckout, case: str, heldout: int = 3) -> list[dict[str, Any]]:
    """Put a case's rows and pictures into a checkout; pictures that the rows name and the case lacks are drawn."""
    shutil.copytree(CASES / case, checkout.preferences, dirs_exist_ok=True)
    (checkout.preferences / "rows.jsonl").rename(checkout.preferences / "data.jsonl")
    rows = [json.loads(line) for line in (checkout.preferences / "data.jsonl").read_text("utf-8-sig").split("\n") if line.startswith("{")]
    for number, name in enumerate({row["image"]: None for row in rows if str(row["image"]).endswith(".png")}):
        if not (checkout.preferences / name).is_file():
            checkout.picture(name, 500 + number)
    if heldout:
        checkout.write("heldout.jsonl", [checkout.row(100 + number) for number in range(heldout)])
    return rows


def run(checkout: DataCheckout, **changes: Any) -> StageResult:
    return checkout.run(validate=LENIENT | changes)


def refused(checkout: DataCheckout) -> dict[str, str]:
    """The reasons of refused rows, by their ids."""
    lines = (checkout.preferences / "data.jsonl").read_bytes().split(b"\n")
    refusals = [entry for entry in checkout.quarantine() if entry["file"].endswith("data.jsonl")]
    return {str(json.loads(lines[entry["line"] - 1])["id"]): f"{entry['field']} {entry['reason']}" for entry in refusals}


def test_equal_answers_make_no_pair_and_are_counted(checkout: DataCheckout) -> None:
    put(checkout, "05-identical-answers")
    metrics = run(checkout).metrics
    assert [query.pairs() for query in checkout.queries("train")] == [[], [(0, 2), (1, 2)]]
    assert (metrics["pairs"], metrics["equal_texts"]) == (2, 4)


def test_texts_are_used_or_refused_with_their_cause(checkout: DataCheckout) -> None:
    put(checkout, "12-texts")
    run(checkout)
    reasons = refused(checkout)
    expected = {
        "zw": "question is empty",
        "blank": "models_output[1] is empty",
        "eos": "models_output[0] holds '<|im_end|>', a token of the model's own structure",
        "7": "id '7' stands already in line 13",
        "True": "id is bool, not text",
        "7.0": "id is float, not text",
        "rank0": "final_ranking [0, 1, 2] is no weak order: ranks start at 1, with no gap but after ties",
        "score0": "faithfulness[0] 10 is not between 1 and 5",
        "nullq": "question is missing",
        "none": "image 'None' does not exist",
        "nan": "image 'nan' does not exist",
        "cat": "category 'MCQ' is none of mcq, long, short, safety, video",
    }
    assert {identity: reason for identity, reason in reasons.items() if identity in expected} == expected
    used = {query.id: query for query in checkout.queries("train")}
    assert {"script", "nul", "ls", "rtl", "ctrl", "emoji", "7", "rankf", "scorestr", "nullimg"} <= set(used)
    assert used["ls"].responses[0].text == "Red\u2028."
    assert used["nullimg"].media == ()


def test_ranking_against_scores_ends_the_stage(checkout: DataCheckout) -> None:
    put(checkout, "16-ranking-against-scores")
    with pytest.raises(
        UserError, match=r"data\.jsonl: ranks contradict the scores in 1\d of 1\d pairs .*first in lines 1, 2 and 3"
    ) as caught:
        run(checkout)
    assert "validate.max_contradictions allows 30.0%" in str(caught.value)
    assert not (checkout.root / "artifacts/validate/train").exists()
    metrics = run(checkout, max_contradictions=1.0).metrics
    assert (metrics["contradicting_share"] or 0) > 0.5


def test_only_ties_end_the_stage(checkout: DataCheckout) -> None:
    rows = put(checkout, "24-only-ties")
    with pytest.raises(UserError, match=rf"data\.jsonl: none of {len(rows)} rows ranks one response above a different one"):
        run(checkout)


def test_pictures_stay_on_one_side_and_contradiction_is_refused(checkout: DataCheckout) -> None:
    rows = put(checkout, "25-one-picture-many-questions", heldout=0)
    metrics = run(checkout).metrics
    train, heldout = checkout.queries("train"), checkout.queries("heldout")
    assert {query.media[0].digest for query in train}.isdisjoint(query.media[0].digest for query in heldout)
    assert len(train) + len(heldout) == len(rows) - 2
    assert (metrics["leaked_queries"], metrics["leaked_share"], metrics["quarantined_contradiction"]) == (0, 0.0, 2)
    reasons = refused(checkout)
    assert set(reasons) == {"img0-q0", "again"}
    assert "contradicts line 2, 'again': same media, question and answers, another order" in reasons["img0-q0"]


def test_byte_order_mark_and_crlf_lose_no_row(checkout: DataCheckout) -> None:
    rows = put(checkout, "15-bom-crlf")
    assert run(checkout, max_quarantined_share=0.0).metrics["queries"] == len(rows) == 3


@pytest.mark.parametrize("name", ["array.jsonl", "commas.jsonl"])
def test_array_and_commas_are_read_as_three_rows(checkout: DataCheckout, name: str) -> None:
    checkout.write("heldout.jsonl", [checkout.row(100), checkout.row(101)])
    shutil.copy(CASES / "17-array-and-commas" / name, checkout.preferences / "data.jsonl")
    content = (checkout.preferences / "data.jsonl").read_text()
    for number, part in enumerate(content.split('"image": "')[1:]):
        checkout.picture(part.split('"')[0], 500 + number)
    assert run(checkout, max_quarantined_share=0.0).metrics["queries"] == 3


def best_first(checkout: DataCheckout, scored: bool) -> list[dict[str, Any]]:
    """Rows of three answers whose rankings list the best answer's number first."""
    rows = []
    for number, order in enumerate(([3, 1, 2], [2, 3, 1], [1, 3, 2], [3, 1, 2], [2, 1, 3])):
        quality = [4 - order.index(answer) for answer in (1, 2, 3)]
        scores = quality if scored else [None] * 3
        rows.append(
            checkout.row(number, final_ranking=order, faithfulness=scores, helpfulness=scores, ethical=[5, 5, 5] if scored else scores)
        )
    return rows


def test_scores_distinguish_an_order_from_ranks(checkout: DataCheckout, caplog: pytest.LogCaptureFixture) -> None:
    checkout.write("data.jsonl", best_first(checkout, scored=True))
    checkout.write("heldout.jsonl", [checkout.row(100), checkout.row(101)])
    with caplog.at_level(logging.WARNING):
        metrics = run(checkout).metrics
    assert [response.rank for response in checkout.queries("train")[0].responses] == [2, 3, 1]
    assert metrics["contradictions"] == 0
    assert "lists in final_ranking name the best response first" in caplog.text


def test_ranking_without_scores_is_asked_about(checkout: DataCheckout) -> None:
    checkout.write("data.jsonl", best_first(checkout, scored=False))
    checkout.write("heldout.jsonl", [checkout.row(100), checkout.row(101)])
    with pytest.raises(UserError, match=r"data\.jsonl: the lists in final_ranking may give .* \(lines 1, 2 and 4\): set validate\.ranking"):
        run(checkout)
    run(checkout, ranking="ranks")
    assert [response.rank for response in checkout.queries("train")[0].responses] == [3, 1, 2]
    checkout.write("heldout.jsonl", [checkout.row(100, final_ranking=[1, 2, 3]), checkout.row(101, final_ranking=[1, 2, 3])])
    metrics = run(checkout, ranking="order").metrics
    assert [response.rank for response in checkout.queries("train")[0].responses] == [2, 3, 1]
    assert metrics["rows_without_scores"] == 5


def test_repeated_row_is_used_once_and_not_counted_as_bad(checkout: DataCheckout, caplog: pytest.LogCaptureFixture) -> None:
    rows = [checkout.row(number) for number in range(3)]
    turned = rows[1] | {"id": "turned", "models_output": rows[1]["models_output"][::-1], "final_ranking": [2, 2, 1]}
    turned |= {"faithfulness": [1, 2, 5], "helpfulness": [1, 2, 5], "score_reasons": rows[1]["score_reasons"][::-1]}
    checkout.write("data.jsonl", [*rows, rows[0] | {"id": "copy"}, turned])
    checkout.write("heldout.jsonl", [checkout.row(100), checkout.row(101)])
    with caplog.at_level(logging.WARNING):
        metrics = checkout.run(validate={"max_quarantined_share": 0.0}).metrics
    assert [query.id for query in checkout.queries("train")] == ["row-0", "row-1", "row-2"]
    assert (metrics["quarantined_repeated"], metrics["quarantined_share"]) == (2, 0.0)
    assert refused(checkout)["copy"] == " repeats line 1, 'row-0', under a new id"
    assert "2 rows repeat others under a new id" in caplog.text


def test_heldout_file_with_training_pictures_is_refused(checkout: DataCheckout) -> None:
    checkout.write("data.jsonl", [checkout.row(number) for number in range(4)])
    checkout.write("heldout.jsonl", [checkout.row(100), checkout.row(101, image="short/2.png", group="a")])
    with pytest.raises(UserError, match=r"heldout\.jsonl: 1 of 2 rows share media \(1\) or a group \(0\).* first line 2 \('row-101'\)"):
        run(checkout)
    metrics = run(checkout, max_leaked_share=0.5).metrics
    assert (metrics["leaked_queries"], metrics["leaked_share"]) == (1, 0.5)


def test_rows_have_their_clusters(checkout: DataCheckout) -> None:
    checkout.write("data.jsonl", [checkout.row(0), checkout.row(1, clusters={"wording": "template 7", "scene": "kitchen"})])
    checkout.write("heldout.jsonl", [checkout.row(100), checkout.row(101, image="")])
    run(checkout)
    first, second = checkout.queries("train")
    assert first.clusters == {"picture": first.media[0].digest, "wording": "what is in picture 0?"}
    assert second.clusters == {"picture": second.media[0].digest, "scene": "kitchen", "wording": "template 7"}
    assert checkout.queries("heldout")[1].clusters == {"wording": "what is in picture 101?"}


def test_personal_data_is_counted_and_not_refused(checkout: DataCheckout) -> None:
    checkout.write("data.jsonl", [checkout.row(0), checkout.row(1, question="Write to jane@mail.example.org?")])
    checkout.write("heldout.jsonl", [checkout.row(100), checkout.row(101)])
    metrics = run(checkout).metrics
    assert (metrics["rows_with_personal_data"], metrics["rows_with_email"], metrics["quarantined"]) == (1, 1, 0)


def test_every_case_has_a_readme() -> None:
    assert all((folder / "README").is_file() for folder in Path(CASES).iterdir() if folder.is_dir())
