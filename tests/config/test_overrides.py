from __future__ import annotations

from pathlib import Path

import pytest
from dvc.utils.serialize import parse_yaml

from components.config.overrides import changed_settings, parse_assignments
from components.config.settings import load_settings
from components.errors import UserError
from tests.settings import copy_settings


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return copy_settings(tmp_path)


def test_override_changes_value_and_keeps_comment(params: Path) -> None:
    ((path, after),) = changed_settings(params, ["alignment.beta=0.2"]).items()
    assert path == params
    changed = [(old, new) for old, new in zip(params.read_text().splitlines(), after.splitlines(), strict=True) if old != new]
    assert len(changed) == 1
    old, new = changed[0]
    assert new == old.replace("0.1 ", "0.2 ", 1)


def test_override_does_not_write_file(params: Path) -> None:
    before = params.read_bytes()
    changed_settings(params, ["alignment.beta=0.2"])
    assert params.read_bytes() == before


def test_each_override_goes_into_its_own_file(params: Path) -> None:
    ops = params.with_name("ops.yaml")
    texts = changed_settings(params, ["stages.align.gpus=2", "alignment.beta=0.2"])
    assert texts.keys() == {params, ops}
    assert texts[ops] == ops.read_text().replace("align: { deadline_minutes: 2880, gpus: 0 }", "align: { deadline_minutes: 2880, gpus: 2 }")
    assert changed_settings(params, ["stages.align.gpus=2"]).keys() == {ops}
    settings = load_settings(params, texts)
    assert (settings.stages["align"].gpus, settings.alignment.beta) == (2, 0.2)


def test_equal_value_changes_nothing(params: Path) -> None:
    assert changed_settings(params, [f"alignment.beta={load_settings(params).alignment.beta}"]) == {}


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("alignment.learning_rate=1e-4", 1e-4),
        ("alignment.max_steps=null", None),
        ("alignment.max_steps=1", 1),
        ("alignment.margins=raw", "raw"),
    ],
)
def test_values_are_yaml_with_plain_exponents(assignment: str, value: object) -> None:
    (parsed,) = parse_assignments([assignment]).values()
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "assignment", ["endpoint.judge.url=http://127.0.0.1:8003/v1", "endpoint.judge.model=a, b: {c} #d", "endpoint.judge.key="]
)
def test_text_within_braces_is_read_as_written_by_dvc_too(params: Path, assignment: str) -> None:
    ((_, after),) = changed_settings(params, [f'{assignment.partition("=")[0]}="{assignment.partition("=")[2]}"']).items()
    read = parse_yaml(after, str(params))
    *path, last = assignment.partition("=")[0].split(".")
    for part in path:
        read = read[part]
    assert read[last] == assignment.partition("=")[2]
    assert getattr(load_settings(params, {params: after}).endpoint.judge, last) == read[last]


def test_nothing_is_the_empty_text(params: Path) -> None:
    assert parse_assignments(["endpoint.judge.key="]) == {"endpoint.judge.key": ""}
    with pytest.raises(UserError, match="max_steps"):
        changed_settings(params, ["alignment.max_steps="])


def test_null_is_written_as_null(params: Path) -> None:
    params.write_text(changed_settings(params, ["alignment.max_steps=1", "reward.max_steps=2"])[params])
    settings = load_settings(params, changed_settings(params, ["alignment.max_steps=null"]))
    assert (settings.alignment.max_steps, settings.reward.max_steps) == (None, 2)


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (["alignment.bta=0.2"], r"unknown key 'alignment\.bta'; did you mean 'alignment\.beta'\?"),
        (["alignment=1"], r"unknown key 'alignment'"),
        (["alignment.beta"], r"section\.key=value"),
        (["alignment.beta=-1"], r"^--set alignment\.beta=-1: 'alignment\.beta' is -1"),
        (["stages.align.gpus=-1"], r"^--set stages\.align\.gpus=-1: 'stages\.align\.gpus' is -1"),
        (["alignment.beta=[0.2"], r"not valid YAML"),
        (["reward.epochs=2", "alignment.bta=0.2"], r"alignment\.beta"),
    ],
)
def test_override_mistake_is_one_sentence(params: Path, assignments: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        changed_settings(params, assignments)
    assert "\n" not in str(error.value)
