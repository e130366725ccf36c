"""prefect.yaml and the schema of the parameters, without a server."""

from __future__ import annotations

import sys
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from components.checkout import Checkout
from components.config.settings import load_settings
from flows.parameters import OVERRIDE, RunParameters, parameter_schema
from tests.checkout import ROOT
from tests.settings import shipped


@pytest.fixture(scope="module")
def schema() -> dict[str, object]:
    from prefect.utilities.callables import parameter_schema as schema_of

    from flows.pipeline_run import pipeline_run

    return parameter_schema(schema_of(pipeline_run).model_dump_for_openapi())


def test_deployments_take_times_from_settings(tmp_path: Path) -> None:
    from flows.deployments import read_description, variables

    (tmp_path / "prefect.yaml").write_text((ROOT / "prefect.yaml").read_text())
    settings = load_settings(ROOT / "params.yaml")
    description = read_description(Checkout(tmp_path), settings)
    by_name = {one["name"]: one for one in description["deployments"]}
    assert list(by_name) == ["nightly", "on-new-data", "on-demand"]
    assert by_name["nightly"]["schedules"][0]["cron"] == settings.deployments.cron
    assert by_name["nightly"]["schedules"][0]["timezone"] == settings.deployments.timezone
    assert by_name["on-new-data"]["schedules"][0]["cron"] == settings.deployments.poll_cron
    assert "schedules" not in by_name["on-demand"]
    make, enter = (next(iter(step.values())) for step in description["pull"])
    named = {f"{{{{ prefect.variables.{name} }}}}": value for name, value in variables(Checkout(tmp_path), settings).items()}
    assert named[make["directory"]] == str(tmp_path)
    assert named[make["script"].removesuffix(" -m flows.workspace")] == sys.executable
    assert enter["directory"] == "{{ workspace.stdout }}"
    assert {one["concurrency_limit"]["limit"] for one in description["deployments"]} == {2}
    for one in description["deployments"]:
        RunParameters.model_validate((one.get("parameters") or {}).get("run", {}))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"run": {}},
        {"run": {"overrides": ["alignment.beta=0.2", "reward.epochs=3"], "stages": ["reward"], "source": "git", "ref": "main"}},
    ],
)
def test_valid_parameters_pass_schema(schema: dict[str, object], parameters: dict[str, object]) -> None:
    assert list(jsonschema.validators.validator_for(schema)(schema).iter_errors(parameters)) == []


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"rnu": {}}, "rnu"),
        ({"run": {"overide": []}}, "overide"),
        ({"run": {"overrides": ["alignment.bta=1"]}}, "alignment.bta=1"),
        ({"run": {"overrides": ["alignment.beta"]}}, "alignment.beta"),
        ({"run": {"stages": ["rewrd"]}}, "rewrd"),
        ({"run": {"promote": "perhaps"}}, "perhaps"),
    ],
)
def test_invalid_parameter_is_refused_by_name(schema: dict[str, object], parameters: dict[str, object], named: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=named):
        jsonschema.validate(parameters, schema)


def test_every_parameter_has_description() -> None:
    assert [name for name, field in RunParameters.model_fields.items() if not field.description] == []


def test_every_settings_key_can_be_overridden() -> None:
    import re

    for section, values in shipped().items():
        key = next(iter(values))
        assert re.match(OVERRIDE, f"{section}.{key}=1") or isinstance(values[key], dict), section
    with pytest.raises(ValidationError):
        RunParameters(overrides=["alignment.bta=1"])
