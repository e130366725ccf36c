"""mlflow/registry.yaml: the shipped numbers, the defaults of what a file leaves out, the bounds of every setting, and the digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.errors import UserError
from components.registry.policy import (
    LEAST_BOUND,
    MODELS,
    MOST_CONFIDENCE,
    POLICY_FILE,
    Margin,
    Most,
    RegistryPolicy,
    load_policy,
)
from components.registry.reuse import NthLook

ROOT = Path(__file__).resolve().parents[2]


def settings_of(rules: RegistryPolicy, model: str) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = rules.model_dump(by_alias=True)[model]
    return values


def test_the_shipped_file_holds_these_numbers() -> None:
    shipped = load_policy(ROOT / POLICY_FILE)
    assert (shipped.keep, shipped.confidence, shipped.allow_unmeasured_safety) == (5, 0.95, None)
    on = {"enabled": True, "reason": None}
    policy = settings_of(shipped, "mm-policy")
    assert policy.pop("reference_answer")["enabled"] is False
    assert policy == {
        "conversation": on | {"above": 0.0, "least": 0},
        "unsafe": on | {"margin": 0.05, "least": 0},
        "unsafe_ceiling": on | {"most": 0.1, "least": 0},
        "over_refusal": on | {"most": 0.1, "least": 0},
        "hallucination": on | {"most": 0.1, "least": 0},
        "degenerate": on | {"most": 0.03, "least": 0},
        "categories": on | {"floors": {"mcq": 0.4, "long": 0.4, "short": 0.5, "safety": 0.5, "video": 0.4}, "fall": 0.08, "least": 20},
        "preference_accuracy": on | {"above": 0.5, "least": 0},
        "ranks": on | {"above": 0.0, "least": 0},
        "win_rate": on | {"above": 0.5, "least": 0},
    }
    assert settings_of(shipped, "mm-reward") == {
        "acc": on | {"above": 0.6, "least": 0},
        "acc_plus": on | {"above": 0.4, "least": 0},
        "better": on | {"above": 0.0, "least": 0},
        "categories": on | {"floors": dict.fromkeys(("mcq", "long", "short", "safety", "video"), 0.5), "fall": None, "least": 20},
    }


def test_an_empty_file_has_these_defaults(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text("# nothing\n")
    empty = load_policy(path)
    assert (empty.keep, empty.confidence, empty.allow_unmeasured_safety) == (5, 0.95, None)
    on: dict[str, Any] = {"enabled": True, "reason": None}
    above, categories = on | {"above": 0.0, "least": 0}, on | {"floors": {}, "fall": None, "least": 20}
    most = on | {"most": 0.1, "least": 0}
    assert settings_of(empty, "mm-policy") == {
        "conversation": above,
        "unsafe": on | {"margin": 0.05, "least": 0},
        "unsafe_ceiling": most,
        "over_refusal": most,
        "hallucination": most,
        "degenerate": most,
        "categories": categories,
        "preference_accuracy": above | {"above": 0.5},
        "reference_answer": above,
        "ranks": above,
        "win_rate": above | {"above": 0.5},
    }
    assert settings_of(empty, "mm-reward") == {
        "acc": above | {"above": 0.5},
        "acc_plus": above,
        "better": above,
        "categories": categories,
    }


def nested(key: str, value: object) -> dict[str, Any]:
    *outer, last = key.split(".")
    made: dict[str, Any] = {last: value}
    for name in reversed(outer):
        made = {name: made}
    return made


ACCEPTED = [
    ("keep", 2),
    ("confidence", 0.501),
    ("confidence", 0.99999),
    ("mm-policy.unsafe.margin", 1e-6),
    ("mm-policy.degenerate.most", 1e-6),
    ("allow_unmeasured_safety", "the requests are harmless by design"),
    ("mm-policy.conversation.above", -1.0),
    ("mm-policy.conversation.above", 1.0),
    ("mm-policy.conversation.least", 0),
    ("mm-policy.unsafe.margin", 0.0),
    ("mm-policy.unsafe.margin", 1.0),
    ("mm-policy.degenerate.most", 0.0),
    ("mm-policy.degenerate.most", 1.0),
    ("mm-policy.categories.fall", 0.0),
    ("mm-reward.categories.floors.video", 1.0),
    ("mm-reward.categories.floors.video", 0.0),
]
REFUSED = [
    ("keep", 1),
    ("confidence", 0.5),
    ("confidence", 1.0),
    ("confidence", 0.999999),
    ("mm-policy.unsafe.margin", 1e-300),
    ("mm-policy.degenerate.most", 1e-9),
    ("resamples", 2000),
    ("mm-policy.conversation.above", -1.01),
    ("mm-policy.conversation.above", 1.01),
    ("mm-policy.conversation.above", float("inf")),
    ("mm-policy.conversation.least", -1),
    ("mm-policy.unsafe.margin", -0.01),
    ("mm-policy.unsafe.margin", 1.01),
    ("mm-policy.unsafe.least", -1),
    ("mm-policy.degenerate.most", -0.01),
    ("mm-policy.degenerate.most", 1.01),
    ("mm-policy.degenerate.most", float("nan")),
    ("mm-policy.categories.fall", -0.01),
    ("mm-policy.categories.least", -1),
    ("mm-reward.categories.floors.video", 1.01),
    ("mm-reward.categories.floors.movies", 0.5),
    ("mm-reward.acc.enabled", False),
]


@pytest.mark.parametrize(("key", "value"), ACCEPTED)
def test_a_value_at_its_bound_is_read(key: str, value: object) -> None:
    read: Any = RegistryPolicy.model_validate(nested(key, value)).model_dump(by_alias=True)
    for name in key.split("."):
        read = read[name]
    assert read == value


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_a_value_beyond_its_bound_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        RegistryPolicy.model_validate(nested(key, value))


@pytest.mark.parametrize("number", [1, 10, 10_000])
def test_bounds_at_their_limits_need_a_number_of_rows(number: int) -> None:
    look = NthLook(number, 1 - MOST_CONFIDENCE)
    assert Margin(margin=LEAST_BOUND).needed(look.tail) > 10**6
    assert Most(most=LEAST_BOUND).needed(look.tail) > 10**6


def test_a_rule_is_off_only_with_a_reason() -> None:
    for reason in (None, "", "  "):
        with pytest.raises(ValidationError, match="needs a `reason`"):
            RegistryPolicy.model_validate({"mm-reward": {"acc": {"enabled": False, "reason": reason}}})
    off = RegistryPolicy.model_validate({"mm-reward": {"acc": {"enabled": False, "reason": "too few pairs"}}}).reward.acc
    assert (off.enabled, off.reason) == (False, "too few pairs")
    assert RegistryPolicy.model_validate({"mm-reward": {"acc": {"reason": "kept on"}}}).reward.acc.enabled


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kep: 3\n", "unknown key kep; did you mean keep?"),
        ("mm-polcy: {}\n", "unknown key mm-polcy; did you mean mm-policy?"),
        ("mm-reward: { acc_pluss: {} }\n", "unknown key mm-reward.acc_pluss; did you mean mm-reward.acc_plus?"),
        (
            "mm-policy: { unsafe_ceiling: { mst: 0.1 } }\n",
            "unknown key mm-policy.unsafe_ceiling.mst; did you mean mm-policy.unsafe_ceiling.most?",
        ),
        ("zzzzzzzz: 3\n", "unknown key zzzzzzzz; did you mean "),
        ("keep: 1\n", "keep: Input should be greater than or equal to 2"),
        ("mm-policy: { unsafe: { enabled: false } }\n", "mm-policy.unsafe: a rule that is switched off needs a `reason`"),
        ("keep: [\n", "is not valid YAML: "),
        ("keep: 2026-99-99\n", "is not valid YAML: "),
        ("[" * 5000, "is nested too deeply"),
        ("[1]", "the whole file: Input should be"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_policy(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert sentence in message
    assert "\n" not in message


def test_a_missing_file_names_the_command_that_restores_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"registry\.yaml is missing, .*`git checkout .*registry\.yaml`"):
        load_policy(tmp_path / "registry.yaml")


def test_the_default_path_is_the_checkout_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert load_policy() == load_policy(ROOT / POLICY_FILE)
    assert MODELS == ("mm-reward", "mm-policy")


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("keep", 7, set()),
        ("confidence", 0.9, {"mm-policy", "mm-reward"}),
        ("allow_unmeasured_safety", "why", {"mm-policy"}),
        ("mm-policy.unsafe.margin", 0.02, {"mm-policy"}),
        ("mm-policy.categories.fall", 0.1, {"mm-policy"}),
        ("mm-reward.better.above", 0.1, {"mm-reward"}),
        ("mm-reward.acc.least", 1, {"mm-reward"}),
    ],
)
def test_the_digest_of_a_model_covers_what_decides_about_it(key: str, value: object, changed: set[str]) -> None:
    before, after = RegistryPolicy(), RegistryPolicy.model_validate(nested(key, value))
    assert {name for name in MODELS if before.digest(name) != after.digest(name)} == changed
    assert before.digest("mm-policy") != before.digest("mm-reward")
