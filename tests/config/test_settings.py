from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config.settings import known_keys, load_settings, parse_settings, settings_class
from components.errors import UserError
from components.stages import OPS_SECTIONS, SECTIONS, STAGE_NAMES, STAGES, StageName
from tests.checkout import ROOT
from tests.settings import copy_settings, shipped

Values = dict[str, dict[str, Any]]


@pytest.fixture
def values() -> Values:
    """The shipped settings, as YAML reads them."""
    return shipped()


def refusal(values: Any) -> str:
    """What is said of broken settings."""
    with pytest.raises(UserError) as error:
        parse_settings(values, "params.yaml")
    return str(error.value)


def test_every_mistake_is_reported_at_once(values: Values) -> None:
    values["training"]["ranks"] = 0
    values["alignment"]["loss_type"] = "ipo"
    del values["evaluate"]["judges"]
    lines = refusal(values).splitlines()
    assert lines[0] == "params.yaml has 3 mistakes:"
    assert lines[1:] == [
        "  1. 'training.ranks' is 0: input should be greater than or equal to 1",
        "  2. 'alignment.loss_type' is 'ipo': IPO goes with alignment.beta_schedule constant only, not drs: set one of the two keys",
        "  3. key 'evaluate.judges' is missing; add it",
    ]


def test_misspelt_key_is_reported_once(values: Values) -> None:
    values["alignment"]["bta"] = values["alignment"].pop("beta")
    assert refusal(values) == "params.yaml: unknown key 'alignment.bta'; did you mean 'alignment.beta'?"


def test_misspelt_section_is_reported_once(values: Values) -> None:
    values["traning"] = values.pop("training")
    assert refusal(values) == "params.yaml: unknown key 'traning'; did you mean 'training'?"


def test_unknown_stage_is_reported_without_its_missing_keys(values: Values) -> None:
    values["stages"]["distill"] = {}
    assert refusal(values).startswith("params.yaml: unknown key 'stages.distill'; did you mean ")


@pytest.mark.parametrize(
    ("key", "old", "sentence"),
    [
        ("normalise", "pair", "unknown key 'alignment.normalise'; it is called alignment.normalize now"),
        ("margins", "standardised", "'alignment.margins' is 'standardised'; that value is called standardized now"),
    ],
)
def test_british_name_is_refused_with_the_american_one(values: Values, key: str, old: str, sentence: str) -> None:
    values["alignment"].pop("normalize" if key == "normalise" else key)
    values["alignment"][key] = old
    assert refusal(values) == f"params.yaml: {sentence}"


@pytest.mark.parametrize("schedule", ["drs", "beta_dpo", "madpo"])
def test_ipo_with_another_schedule_is_refused(values: Values, schedule: str) -> None:
    values["alignment"] |= {"loss_type": "ipo", "beta_schedule": "constant"}
    parse_settings(values, "params.yaml")
    values["alignment"]["beta_schedule"] = schedule
    assert f"IPO goes with alignment.beta_schedule constant only, not {schedule}" in refusal(values)


def test_ipo_with_label_smoothing_is_refused(values: Values) -> None:
    values["alignment"]["label_smoothing"] = 0.1
    parse_settings(values, "params.yaml")
    values["alignment"] |= {"loss_type": "ipo", "beta_schedule": "constant"}
    assert "label smoothing has no part in IPO" in refusal(values)


def test_no_preference_loss_and_no_sft_is_refused(values: Values) -> None:
    values["alignment"] |= {"preference_weight": 0.0, "sft_weight": 0.25}
    parse_settings(values, "params.yaml")
    values["alignment"]["sft_weight"] = 0.0
    assert "alignment.preference_weight is 0, too, so there is no loss" in refusal(values)


def test_settings_that_are_no_mapping_are_refused() -> None:
    assert refusal(["model"]) == "params.yaml must be a mapping of sections, not list"


def test_known_keys_are_the_keys_of_the_shipped_files(values: Values) -> None:
    def dotted(section: Any, prefix: str) -> list[str]:
        if not isinstance(section, dict):
            return [prefix]
        return [key for name, inner in section.items() for key in dotted(inner, f"{prefix}.{name}" if prefix else name)]

    assert known_keys() == sorted(dotted(values, ""))


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_stage_reads_its_sections_and_no_other(stage: StageName) -> None:
    settings = load_settings(ROOT / "params.yaml")
    own = settings.for_stage(stage)
    for section in {**SECTIONS, **OPS_SECTIONS}:
        name = "validate_" if section == "validate" else section
        if section in STAGES[stage].sections:
            assert getattr(own, name) == getattr(settings, name)
        else:
            with pytest.raises(AttributeError, match=rf"stage {stage} may not read settings of section '{section}'"):
                getattr(own, name)


def test_attribute_that_is_no_section_is_refused_as_ever() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sections_of'"):
        load_settings(ROOT / "params.yaml").sections_of  # type: ignore[attr-defined]  # noqa: B018


def test_rank_parses_only_its_stages_sections(values: Values) -> None:
    values["evaluate"]["judges"] = ["nobody"]  # not what align reads
    settings = parse_settings(values, "settings.json", "align")
    assert settings.alignment.beta == values["alignment"]["beta"]
    assert settings.model_dump(mode="json", by_alias=True).keys() == set(STAGES["align"].sections)


def test_every_section_of_the_table_is_typed() -> None:
    source = (ROOT / "components/config/settings.py").read_text()
    typed = re.findall(r"^        (\w+): \w+Settings$", source, re.MULTILINE)
    assert [name.removesuffix("_") for name in typed] == [*SECTIONS, *OPS_SECTIONS]
    assert [field.alias or name for name, field in settings_class().model_fields.items()] == [*SECTIONS, *OPS_SECTIONS]


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_stage_depends_on_keys_of_its_sections(stage: StageName) -> None:
    params = yaml.safe_load(Path(ROOT / "dvc.yaml").read_text())["stages"][stage]["params"]
    sections = {str(key).split(".")[0] for key in params}
    # How many pixels stay in memory, and what is cached, changes no length: validate reads `features` and depends on none of it.
    unread = {"features"} if stage == "validate" else set()
    assert sections == set(STAGES[stage].sections) - unread
    assert {str(key) for key in params} <= set(known_keys()) | set(SECTIONS)


def test_no_stage_depends_on_ops_yaml() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    named = {str(key).split(".")[0] for stage in stages for key in stage.get("params", [])}
    assert not named & set(OPS_SECTIONS)
    assert "ops.yaml" not in (ROOT / "dvc.yaml").read_text()


def test_each_file_has_its_own_sections() -> None:
    assert list(yaml.safe_load((ROOT / "params.yaml").read_text())) == list(SECTIONS)
    assert list(yaml.safe_load((ROOT / "ops.yaml").read_text())) == list(OPS_SECTIONS)


@pytest.mark.parametrize("section", OPS_SECTIONS)
def test_moved_section_is_refused_with_its_new_file(tmp_path: Path, section: str) -> None:
    params, ops = copy_settings(tmp_path), tmp_path / "ops.yaml"
    with params.open("a") as stream:
        stream.write(yaml.safe_dump({section: shipped()[section]}))
    sentence = f"{params}: section '{section}' is in ops.yaml now: move what you changed in it there"
    with pytest.raises(UserError) as error:
        load_settings(params)
    assert str(error.value) == sentence

    values = yaml.safe_load(ops.read_text())
    del values[section]  # as in a checkout whose ops.yaml is not filled yet
    ops.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as error:
        load_settings(params)
    assert str(error.value) == sentence


def test_section_of_params_in_ops_is_refused(tmp_path: Path) -> None:
    params, ops = copy_settings(tmp_path), tmp_path / "ops.yaml"
    with ops.open("a") as stream:
        stream.write(yaml.safe_dump({"model": shipped()["model"]}))
    with pytest.raises(UserError, match=r"ops\.yaml: section 'model' is in params\.yaml now"):
        load_settings(params)


def test_mistakes_of_both_files_are_reported_at_once(tmp_path: Path) -> None:
    params, ops = copy_settings(tmp_path), tmp_path / "ops.yaml"
    params.write_text(params.read_text().replace("beta_weight:", "beta_wait:"))
    ops.write_text(ops.read_text().replace("timezone: UTC", "timezone: Mars").replace("push_lock: false", "push_locks: false"))
    with pytest.raises(UserError) as error:
        load_settings(params)
    assert str(error.value).splitlines() == [
        f"{params}: unknown key 'alignment.beta_wait'; did you mean 'alignment.beta_weight'?",
        f"{ops} has 2 mistakes:",
        "  1. 'deployments.timezone' is 'Mars': must be an IANA time zone, such as Europe/Berlin",
        "  2. unknown key 'deployments.push_locks'; did you mean 'deployments.push_lock'?",
    ]


def test_missing_ops_file_is_one_sentence(tmp_path: Path) -> None:
    params = copy_settings(tmp_path)
    (tmp_path / "ops.yaml").unlink()
    with pytest.raises(UserError, match=r"ops\.yaml is missing: restore it with git$"):
        load_settings(params)


def test_settings_without_ops_name_the_function_that_reads_it(values: Values) -> None:
    settings = parse_settings({section: values[section] for section in SECTIONS}, "params.yaml")
    with pytest.raises(AttributeError, match=r"without ops\.yaml, which has section 'clean': use load_settings"):
        settings.clean  # noqa: B018
