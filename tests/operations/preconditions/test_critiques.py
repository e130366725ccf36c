from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.operations.preconditions.checks import checked, require, unmet
from components.operations.preconditions.critiques import chosen_source, critiques
from tests.checkout import mmalign
from tests.operations.preconditions.conftest import Situated


def write_rows(checkout: Path, reasons: int, responses: int = 10) -> None:
    """Rows of two responses each, of which the first `reasons` have a critique."""
    texts = ["right"] * reasons + [""] * (responses - reasons)
    rows = [{"models_output": ["a", "b"], "score_reasons": texts[start : start + 2]} for start in range(0, responses, 2)]
    (Checkout(checkout).preferences / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(("reasons", "source"), [(0, "none"), (5, "mixed"), (10, "mixed")])
def test_rows_choose_the_source_and_the_finding_says_so(situated: Situated, checkout: Path, reasons: int, source: str) -> None:
    write_rows(checkout, reasons)
    finding = critiques(situated())
    assert finding.state == "ok"
    assert f"({source})" in finding.text
    assert f"{reasons} of 10 training responses have a critique" in finding.text
    assert chosen_source(situated()) == source


def test_run_is_refused_where_too_few_have_a_critique(situated: Situated, checkout: Path) -> None:
    write_rows(checkout, 4)
    with pytest.raises(UserError) as refusal:
        require(situated(), lambda _: None)
    assert str(refusal.value).startswith(
        "4 of 10 training responses (40.0%) have a critique, fewer than reward.least_annotated_share (0.5)"
    )
    assert chosen_source(situated()) is None
    assert critiques(situated({"reward.least_annotated_share": 0.4})).state == "ok"
    assert critiques(situated({"reward.critique_source": "none"})).state == "ok"


@pytest.mark.parametrize("source", ["annotated", "mixed"])
def test_named_source_without_critiques_is_refused(situated: Situated, checkout: Path, source: str) -> None:
    write_rows(checkout, 0)
    finding = critiques(situated({"reward.critique_source": source}))
    assert finding.state == "problem"
    assert finding.text == f"reward.critique_source is {source}, but no training response has a critique (score_reasons)"
    assert "reward.critique_source to auto" in str(finding.cure)


def test_expansions_have_to_be_there(situated: Situated, checkout: Path) -> None:
    write_rows(checkout, 10)
    expanded: dict[str, Any] = {"reward.critique_source": "expanded"}
    finding = critiques(situated(expanded))
    assert (finding.state, finding.cure) == ("problem", "run `mmalign data expand` first")
    (Checkout(checkout).preferences / "expanded.jsonl").write_text("{}\n")
    assert critiques(situated(expanded)).state == "ok"


def test_server_of_critiques_has_none_to_write_without(situated: Situated, checkout: Path) -> None:
    write_rows(checkout, 0)
    finding = critiques(situated({"critique.engine": "endpoint"}))
    assert finding.state == "problem"
    assert "mmalign configure --set critique.engine=local" in str(finding.cure)
    write_rows(checkout, 10)
    assert critiques(situated({"critique.engine": "endpoint"})).state == "ok"


def test_nothing_is_asked_of_rows_that_train_no_reward_model(situated: Situated, checkout: Path) -> None:
    write_rows(checkout, 4)
    assert critiques(situated(stages=("align", "evaluate"))).text == "no reward model is trained"
    assert chosen_source(situated(stages=("align", "evaluate"))) is None
    (Checkout(checkout).preferences / "data.jsonl").unlink()
    assert critiques(situated()).state == "ok"
    assert chosen_source(situated()) is None
    assert "critiques" not in unmet(checked(situated(stages=("reward",))))


def test_rows_in_another_form_are_left_to_validation(situated: Situated, checkout: Path) -> None:
    (Checkout(checkout).preferences / "data.jsonl").write_text('{"prompt": "x", "chosen": "a", "rejected": "b"}\n')
    assert critiques(situated({"reward.critique_source": "annotated"})).state == "ok"
    assert chosen_source(situated()) is None


def test_plan_says_what_the_reward_model_is_trained_on(checkout: Path) -> None:
    write_rows(checkout, 0)
    shown = mmalign(checkout, "plan")
    assert "reward: the reward model is trained without critiques (none): it scores a response alone" in " ".join(shown.stdout.split())
    write_rows(checkout, 4)
    listed = json.loads(mmalign(checkout, "plan", "--json").stdout)
    assert listed["critique_source"] is None
    assert [(one["name"], one["state"]) for one in listed["preconditions"] if one["name"] == "critiques"] == [("critiques", "problem")]
