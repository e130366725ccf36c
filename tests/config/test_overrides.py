from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.config.overrides import changed_settings, parse_assignments
from components.config.settings import load_settings, parse_settings
from components.errors import UserError
from tests.checkout import ROOT


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


def test_override_changes_value_and_keeps_comment(params: Path) -> None:
    after = changed_settings(params, ["alignment.beta=0.2"])
    assert after is not None
    changed = [(old, new) for old, new in zip(params.read_text().splitlines(), after.splitlines(), strict=True) if old != new]
    assert len(changed) == 1
    old, new = changed[0]
    assert new == old.replace("0.1 ", "0.2 ", 1)


def test_override_does_not_write_file(params: Path) -> None:
    before = params.read_bytes()
    changed_settings(params, ["alignment.beta=0.2"])
    assert params.read_bytes() == before


def test_equal_value_changes_nothing(params: Path) -> None:
    assert changed_settings(params, [f"alignment.beta={load_settings(params).alignment.beta}"]) is None


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


def test_null_is_written_as_null(params: Path) -> None:
    after = changed_settings(params, ["alignment.max_steps=1", "reward.max_steps=2"])
    assert after is not None
    params.write_text(after)
    back = changed_settings(params, ["alignment.max_steps=null"])
    assert back is not None
    import yaml

    settings = parse_settings(yaml.safe_load(back), "params.yaml")
    assert (settings.alignment.max_steps, settings.reward.max_steps) == (None, 2)


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (["alignment.bta=0.2"], r"unknown key 'alignment\.bta'; did you mean 'alignment\.beta'\?"),
        (["alignment=1"], r"unknown key 'alignment'"),
        (["alignment.beta"], r"section\.key=value"),
        (["alignment.beta=-1"], r"'alignment\.beta' is -1"),
        (["alignment.beta=[0.2"], r"not valid YAML"),
        (["reward.epochs=2", "alignment.bta=0.2"], r"alignment\.beta"),
    ],
)
def test_override_mistake_is_one_sentence(params: Path, assignments: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        changed_settings(params, assignments)
    assert "\n" not in str(error.value)
