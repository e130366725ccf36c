"""One meaning a scalar: what YAML 1.1 and 1.2 read as two values is refused, with its line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from components.config.reading import AMBIGUOUS, yaml_values
from components.config.settings import load_settings
from components.errors import UserError
from tests.settings import copy_settings

ROOT = Path(__file__).resolve().parents[2]
SCALARS = (
    "010",
    "-017",
    "1:30",
    "1:30:10",
    "no",
    "Yes",
    "ON",
    "off",
    "1_000",
    "007",
    "08",
    "true",
    "10",
    "1e3",
    "1.5",
    "0",
    "0.5",
    "null",
    "a:b",
    "-1",
)


@pytest.mark.parametrize("scalar", SCALARS)
def test_scalar_is_refused_where_libraries_differ(scalar: str) -> None:
    ours = yaml.safe_load(f"a: {scalar}")["a"]
    dvcs = YAML(typ="safe").load(io.StringIO(f"a: {scalar}"))["a"]
    differ = (type(ours), ours) != (type(dvcs), dvcs)
    if differ and scalar != "1e3":  # a text for one and a number for the other, which the settings' types tell apart
        with pytest.raises(UserError, match=r"line 1: .* is another value for YAML 1.1"):
            yaml_values(f"a: {scalar}", "params.yaml")
        assert yaml_values(f"a: '{scalar}'", "params.yaml") == {"a": scalar}
    elif not AMBIGUOUS.fullmatch(scalar):
        assert yaml_values(f"a: {scalar}", "params.yaml") == {"a": ours}


@pytest.mark.parametrize("scalar", ["010", "1:30", "no"])
def test_seed_of_two_meanings_names_file_and_line(tmp_path: Path, scalar: str) -> None:
    text = (ROOT / "params.yaml").read_text()
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("seed: 0", f"seed: {scalar}", 1))
    line = path.read_text().splitlines().index(next(part for part in path.read_text().splitlines() if f"seed: {scalar}" in part)) + 1
    with pytest.raises(UserError, match=rf"params\.yaml line {line}: {scalar} is another value"):
        load_settings(path)


def test_every_profile_has_one_meaning() -> None:
    for path in [ROOT / "params.yaml", *sorted((ROOT / "profiles").glob("*.yaml"))]:
        assert yaml_values(path.read_text(), path.name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 20000, "more than 64 deep"),
        ("a: &a [1]\nb: [" + "*a," * 40 + "]", "more than 32 aliases"),
        ("<<<<<<< ours\na: 1\n=======\na: 2\n>>>>>>> theirs\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
    ids=["deep", "aliases", "conflict", "tag"],
)
def test_text_that_is_no_settings_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        yaml_values(text, "params.yaml")


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_setting_that_is_no_finite_number_is_refused(tmp_path: Path, value: str) -> None:
    path = copy_settings(tmp_path)
    text = path.read_text()
    assert "  beta: 0.1" in text
    path.write_text(text.replace("  beta: 0.1", f"  beta: {value}", 1))
    with pytest.raises(UserError, match=r"alignment\.beta"):
        load_settings(path)
