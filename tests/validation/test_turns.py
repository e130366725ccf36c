"""Cases of rows with marks, several media, several turns and several types in one column, through the real stage with a base of each kind."""

from __future__ import annotations

import json
import shutil

import pytest

from components.preferences.record import Query
from tests.conftest import ROOT
from tests.families.checkpoints import BUILDERS
from tests.validation.conftest import DataCheckout

CASES = ROOT / "tests/cases"
MARKS, TYPES, TURNS = "13-image-mark-in-the-text", "18-mixed-types", "31-pictures-over-turns"
LENIENT = {"validate": {"max_quarantined_share": 1.0, "min_responses": 2, "max_leaked_share": 1.0}}
Refusals = dict[str, tuple[str, str]]  # field and reason by id


def read(checkout: DataCheckout, *names: str) -> tuple[dict[str, Query], Refusals]:
    """The queries and refusals of the cases' rows by id, as the stage reads them."""
    rows = []
    for name in names:
        rows += [json.loads(line) for line in (CASES / name / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
        for folder in (path for path in (CASES / name).iterdir() if path.is_dir()):
            shutil.copytree(folder, checkout.preferences / folder.name, dirs_exist_ok=True)
    checkout.picture("short/train-0549.png", 1)
    checkout.write("data.jsonl", rows)
    checkout.write("heldout.jsonl", [checkout.row(1), checkout.row(2)])
    checkout.run(**LENIENT)
    refusals = {rows[entry["line"] - 1]["id"]: (entry["field"], entry["reason"]) for entry in checkout.quarantine()}
    return {query.id: query for query in checkout.queries("train")}, refusals


@pytest.fixture(scope="module", params=["internvl", "llava_onevision", "qwen2_5_vl"])
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Query], Refusals]:
    root = tmp_path_factory.mktemp(request.param)
    checkout = DataCheckout(root / "checkout", BUILDERS[request.param](root / "base"))
    checkout.preferences.mkdir(parents=True)
    return read(checkout, MARKS, TURNS)


def pieces(query: Query) -> list[tuple[str, ...]]:
    return [turn.pieces for turn in query.turns]


def test_marks_mean_the_same_for_every_base(outcome: tuple[dict[str, Query], Refusals]) -> None:
    queries, refusals = outcome
    assert pieces(queries["mid"]) == [("Look at ", " and say the colour.")]
    assert pieces(queries["end"]) == [("What colour is it?\n", "")]
    assert refusals["two"] == ("question", "holds 2 marks '<image>' for 1 image: write one for each, or none to show them first")
    assert refusals["vid"] == ("question", "holds the mark '<video>', but the row names no video")
    assert refusals["text"] == ("question", "holds the mark '<image>', but the row names no image")


def test_pictures_stand_where_conversations_have_them(outcome: tuple[dict[str, Query], Refusals]) -> None:
    queries, refusals = outcome
    assert pieces(queries["three-in-two"]) == [("Is ", " older than ", "?"), ("It is.",), ("And than ", "? Say why.")]
    assert pieces(queries["earlier-only"]) == [("", "What is it?"), ("A square.",), ("Of what color?",)]
    assert pieces(queries["two-unmarked"]) == [("", "", "Which is larger?")]
    assert pieces(queries["picture-and-clip"]) == [("Does ", " show ", "?")]
    assert pieces(queries["system"])[:2] == [("Answer in one word.",), ("", "Is it red?")]
    assert [medium.kind for medium in queries["picture-and-clip"].media] == ["video", "image"]
    assert [medium.size for medium in queries["three-in-two"].media] == [(32, 32, 1), (64, 40, 1), (40, 64, 1)]
    assert len({medium.digest for medium in queries["three-in-two"].media} - {None}) == 3
    assert refusals["fewer-marks"] == (
        "conversations",
        "holds 1 mark '<image>' for 2 images: write one for each, or none to show them first",
    )
    assert refusals["ends-with-answer"][1].startswith("ends with a turn of the assistant")
    assert refusals["mark-in-answer"][0] == "conversations[1]"
    assert len(refusals) == 6


def test_column_of_several_types_is_read_or_named(checkout: DataCheckout) -> None:
    queries, refusals = read(checkout, TYPES)
    assert queries["mix-0-answer"].reference_answer == "5"
    assert queries["mix-2-answer"].reference_answer == "red"
    assert [r.rank for r in queries["mix-8-final_ranking"].responses] == [1, 2, 3]
    assert [r.rank for r in queries["mix-9-final_ranking"].responses] == [2, 1, 3]
    named = {name: (field, reason) for name, (field, reason) in refusals.items() if " not " in reason or "missing" in reason}
    assert named["mix-1-answer"] == ("answer", "is bool, not text or a number")
    assert named["mix-3-models_output"] == ("models_output[0]", "is int, not text")
    assert named["mix-7-faithfulness"] == ("faithfulness", "is str, not a list")
    assert named["mix-10-score_reasons"] == ("score_reasons", "is str, not a list")
    assert named["mix-12-models_output"] == ("models_output", "is missing")
    assert {name for name in refusals if refusals[name][0].split("[")[0] != name.split("-")[2]} == set(), refusals
