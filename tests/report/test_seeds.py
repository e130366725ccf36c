"""The spread over seeds: statistics by hand, the digest of inputs, the file, the table and the page's section."""

from __future__ import annotations

import copy
import html
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from components.checkout import Checkout
from components.errors import UserError
from components.files import read_json, write_json
from components.report.render import render_report
from components.report.seeds import (
    SEEDS,
    SeedRun,
    Seeds,
    Spread,
    Varies,
    compared,
    inputs_digest,
    print_seeds,
    read_seeds,
    seed_run,
    seeds_section,
    spread_row,
    write_seeds,
)
from components.stages import STAGE_NAMES

CONVERSATION, UNSAFE = "policy.aligned.conversation", "policy.aligned.unsafe_rate"


def three(inputs: str = "digest", seeds: tuple[int, ...] = (0, 1, 2)) -> Seeds:
    values = ((90.0, 0.02), (94.0, 0.04), (95.0, None))
    runs = [SeedRun(seed, {CONVERSATION: first, UNSAFE: second}, f"run-{seed}") for seed, (first, second) in enumerate(values)]
    return Seeds("policy", inputs, seeds, tuple(runs))


def test_spread_equals_hand_calculation() -> None:
    conversation, unsafe = three().spreads()
    # Mean 93; squares of the differences 9, 1 and 4; their sum over n - 1 is 7.
    assert conversation == Spread(CONVERSATION, 3, 93.0, pytest.approx(math.sqrt(7)), 90.0, 95.0)
    assert unsafe == Spread(UNSAFE, 2, pytest.approx(0.03), pytest.approx(math.sqrt(0.0002)), 0.02, 0.04)


def test_spread_of_one_seed_has_no_deviation() -> None:
    assert Spread.of(CONVERSATION, [91.0]) == Spread(CONVERSATION, 1, 91.0, None, 91.0, 91.0)
    assert spread_row(Spread.of(CONVERSATION, [91.0])).deviation == "–"


@pytest.mark.parametrize(
    ("name", "words", "mean"),
    [
        (CONVERSATION, "right answers, long and short", "0.5"),
        (UNSAFE, "unsafe answers to harmful requests", "50.0"),
        ("part.hard.policy.aligned.conversation", "hard part: right answers, long and short", "0.5"),
        ("part.hard.reward.acc", "hard part: ACC of the reward model", "50.0"),
        ("policy.aligned.accuracy.mcq", "accuracy, mcq", "50.0"),
        ("policy.preference_accuracy", "pairs ordered as ranked", "50.0"),
    ],
)
def test_row_has_words_and_points_of_100(name: str, words: str, mean: str) -> None:
    row = spread_row(Spread.of(name, [0.5]))
    assert (row.words, row.mean) == (words, mean)


def test_metrics_of_reward_model_are_compared_where_it_varies() -> None:
    metrics: dict[str, Any] = {
        CONVERSATION: 90.0, UNSAFE: None, "reward.acc": 0.9, "part.hard.reward.acc": 0.8, "part.hard.policy.aligned.unsafe_rate": 0.1,
        "policy.base.conversation": 50.0, "policy.win_rate": 0.7,
    }  # fmt: skip
    policy = [CONVERSATION, "policy.win_rate", "part.hard.policy.aligned.unsafe_rate"]
    assert compared(metrics, "policy") == policy
    assert sorted(compared(metrics, "reward_model_and_policy")) == sorted([*policy, "reward.acc", "part.hard.reward.acc"])


def lock(**changes: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """A dvc.lock of all stages, whose entries `changes` edit."""
    stages: dict[str, Any] = {
        name: {
            "deps": [{"path": "data/base", "md5": "b"}, {"path": f"artifacts/code/{name}.txt", "md5": "c"}],
            "params": {"params.yaml": {"training": {"seed": 0, "row_tokens": 512}}},
            "outs": [{"path": f"artifacts/{name}/model", "md5": "o"}],
        }
        for name in STAGE_NAMES
    }
    stages["evaluate"]["deps"].append({"path": "artifacts/align/model", "md5": "m"})
    stages["align"]["params"]["params.yaml"]["alignment"] = {"seed": None, "beta": 0.1}
    for name, change in changes.items():
        change(stages[name])
    return {"schema": "2.0", "stages": stages}


def setting(section: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(entry: dict[str, Any]) -> None:
        entry["params"]["params.yaml"] = copy.deepcopy(entry["params"]["params.yaml"])
        entry["params"]["params.yaml"][section][key] = value

    return change


def dependency(index: int) -> Callable[[dict[str, Any]], None]:
    def change(entry: dict[str, Any]) -> None:
        entry["deps"][index]["md5"] = "another"

    return change


def digest(folder: Path, content: dict[str, Any], varies: Varies = "policy") -> str:
    (folder / "dvc.lock").write_text(yaml.safe_dump(content))
    return inputs_digest(Checkout(folder), varies)


@pytest.mark.parametrize(
    ("changes", "policy", "both"),
    [
        ({"align": setting("alignment", "seed", 3)}, True, True),
        ({"reward": setting("training", "seed", 3)}, False, True),
        ({"align": setting("alignment", "beta", 0.2)}, False, False),
        ({"evaluate": dependency(2)}, True, True),  # the model that the stage align made
        ({"evaluate": dependency(1)}, False, False),  # its code
        ({"validate": dependency(0)}, False, False),  # what no stage made
    ],
)
def test_inputs_are_the_same_where_only_seeds_differ(
    tmp_path: Path, changes: dict[str, Callable[[dict[str, Any]], None]], policy: bool, both: bool
) -> None:
    for varies, same in (("policy", policy), ("reward_model_and_policy", both)):
        assert (digest(tmp_path, lock(**changes), varies) == digest(tmp_path, lock(), varies)) is same  # type: ignore[arg-type]


def test_lock_without_a_stage_is_refused(tmp_path: Path) -> None:
    content = lock()
    del content["stages"]["evaluate"]
    with pytest.raises(UserError, match=r"dvc\.lock lacks a stage.*run `mmalign run` first"):
        digest(tmp_path, content)


def test_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_seeds(Checkout(tmp_path)) is None
    write_seeds(Checkout(tmp_path), three(seeds=(0, 1, 2, 3)))
    assert read_seeds(Checkout(tmp_path)) == three(seeds=(0, 1, 2, 3))
    content = read_json(tmp_path / SEEDS)
    assert (content["schema"], content["missing"]) == (1, [3])
    assert content["metrics"][CONVERSATION] == {
        "seeds": 3, "mean": 93.0, "standard_deviation": pytest.approx(math.sqrt(7)), "least": 90.0, "greatest": 95.0,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": []}', '{"runs": 3}'])
def test_foreign_file_is_refused_with_cure(tmp_path: Path, text: str) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / SEEDS).write_text(text)
    with pytest.raises(UserError, match=r"reports/seeds\.json is not a result of .*: delete it"):
        read_seeds(Checkout(tmp_path))


def test_results_of_a_checkout_without_evaluation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.json is missing: run `mmalign run` first"):
        seed_run(Checkout(tmp_path), 0, "policy")


def test_table_shows_mean_and_spread() -> None:
    stream = io.StringIO()
    print_seeds(three(), Console(file=stream, width=160))
    printed = stream.getvalue()
    assert "policy trained with 3 seeds (0, 1, 2)" in printed
    assert re.search(r"right answers, long and short +93\.0 +2\.6 +90\.0 +95\.0", printed)
    assert re.search(r"unsafe answers to harmful requests +3\.0 +1\.4 +2\.0 +4\.0", printed)


def section_text(run: Path) -> str:
    page = render_report(Checkout(run)).read_text()
    start = page.find('<section id="seeds">')
    text = page[start : page.index("</section>", start)] if start >= 0 else ""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()


def test_page_shows_seeds_and_tells_other_inputs(run: Path) -> None:
    assert section_text(run) == ""
    checkout = Checkout(run)
    write_seeds(checkout, three(inputs_digest(checkout, "policy")))
    text = section_text(run)
    assert "The policy trained with 3 seeds (0, 1, 2)" in text
    assert "right answers, long and short 93.0 2.6 90.0 95.0" in text
    assert 'href="#seeds"' in (run / "reports/report.html").read_text()

    content = yaml.safe_load((run / "dvc.lock").read_text())
    content["stages"]["align"]["params"]["params.yaml"]["alignment"]["beta"] = 0.7
    (run / "dvc.lock").write_text(yaml.safe_dump(content))
    text = section_text(run)
    assert "belongs to other data, settings or code than this run: `mmalign run --seeds 3` measures" in text
    assert "93.0" not in text


def test_page_shows_unfinished_and_unreadable_seeds(run: Path) -> None:
    checkout = Checkout(run)
    write_seeds(checkout, three(inputs_digest(checkout, "policy"), seeds=(0, 1, 2, 3, 4)))
    section = seeds_section(checkout)
    assert section is not None
    assert section.remark == "3 of 5 seeds are finished; the same command continues."
    write_json(run / SEEDS, {"runs": [json.dumps("<script>")]})
    assert "reports/seeds.json is not a result of `mmalign run --seeds`" in section_text(run)
