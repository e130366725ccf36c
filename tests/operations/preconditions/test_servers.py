from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.operations.preconditions.servers import servers
from tests.faulty_endpoint import MODEL, Endpoint, serving
from tests.operations.preconditions.conftest import Situated

NOBODY = "http://127.0.0.1:9/v1"


def judged_at(url: str, model: str = MODEL, key: str = "") -> dict[str, Any]:
    return {
        "evaluate.judges": ["rules", "model"],
        "endpoint.judge.url": url,
        "endpoint.judge.model": model,
        "endpoint.judge.key": key,
    }


def test_judge_that_answers_is_fine(situated: Situated) -> None:
    with serving(Endpoint()) as endpoint:
        assert servers(situated(judged_at(endpoint.url))).text == "keys and servers are there: judge"
        assert endpoint.requests == 0, "no judgement is asked for"
        wrong = servers(situated(judged_at(endpoint.url, "another")))
    assert (wrong.state, wrong.cure) == ("warning", "start the server before `evaluate`, or correct the setting")
    assert wrong.text.startswith(f"endpoint.judge: {endpoint.url} has no model 'another', but {MODEL}: `evaluate` would stop")


@pytest.mark.parametrize(
    ("path", "sentence"), [("refusing/v1", "refuses the key (401)"), ("other/v1", None), ("broken/v1", None), ("plain/v1", None)]
)
def test_list_of_models_decides_no_more_than_it_says(situated: Situated, path: str, sentence: str | None) -> None:
    with serving(Endpoint()) as endpoint:
        finding = servers(situated(judged_at(endpoint.url.replace("v1", path), "another")))
    assert finding.state == ("ok" if sentence is None else "warning")
    assert sentence is None or sentence in finding.text


def test_comparisons_above_the_cap_are_named_before_training(situated: Situated, checkout: Path) -> None:
    rows = [
        {"id": f"q{n}", "question": "What?", "models_output": ["a", "b"], "final_ranking": [1, 2], "image": "a.png"} for n in range(100)
    ]
    heldout = checkout / "data/preferences/heldout.jsonl"
    heldout.unlink()
    heldout.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(Endpoint()) as endpoint:
        priced = {
            **judged_at(endpoint.url),
            "endpoint.judge.input_price": 2.5,
            "endpoint.judge.output_price": 10.0,
            "evaluate.max_new_tokens": 96,
        }
        assert servers(situated({**priced, "endpoint.max_cost": 10.0})).state == "ok"
        finding = servers(situated({**priced, "endpoint.max_cost": 0.5}))
    # 100 rows in two orders: a picture of 1,000 tokens, two answers of 96 and the judge's instruction; 200 tokens out.
    cost = float(re.findall(r"up to about ([\d.]+),", finding.text)[0])
    assert 100 * 2 * (1192 * 2.5 + 200 * 10) / 1e6 < cost < 100 * 2 * (1700 * 2.5 + 200 * 10) / 1e6
    assert (finding.state, finding.cure) == ("warning", "raise endpoint.max_cost, or hold out fewer rows")


def test_missing_judge_is_named_before_training(situated: Situated) -> None:
    finding = servers(situated(judged_at(NOBODY)))
    assert (finding.state, finding.text) == (
        "warning",
        f"endpoint.judge: {NOBODY} does not answer (ConnectError): `evaluate` would stop there, after training",
    )
    assert servers(situated(judged_at(NOBODY), stages=("reward", "align"))).text == "no stage asks a server"
    assert servers(situated()).text == "no stage asks a server", "the shipped judges need none"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (judged_at(NOBODY, key="KEY_OF_NOBODY"), "judge"),
        ({"critique.engine": "endpoint", "endpoint.reward.key": "KEY_OF_NOBODY"}, "reward"),
        ({"evaluate.engine": "endpoint", "endpoint.aligned.key": "KEY_OF_NOBODY"}, "aligned"),
    ],
)
def test_unset_key_is_a_problem(situated: Situated, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], name: str) -> None:
    finding = servers(situated(settings))
    assert finding.state == "problem"
    assert finding.text.startswith(f"endpoint.{name} takes its key from KEY_OF_NOBODY, which is not set")
    assert finding.cure == f"export KEY_OF_NOBODY, or set endpoint.{name}.key"
    monkeypatch.setenv("KEY_OF_NOBODY", "sk-1")
    finding = servers(situated(settings))
    assert finding.state == ("warning" if name == "judge" else "ok")
    assert "sk-1" not in finding.text
