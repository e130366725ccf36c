"""Settings, read from params.yaml and nowhere else. All mistakes of a file are reported at once, an unknown key with the nearest known name.

Each section has a module and a class; `components.stages` lists them, and which stage may read which. This module imports none of them but to
parse a file, so that a new key of one stage's section is no change in another stage's code.
"""

from __future__ import annotations

import types
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, create_model

from components.config.reading import yaml_values
from components.config.section import Section
from components.errors import UserError
from components.stages import SECTIONS, STAGES, StageName, load

if TYPE_CHECKING:
    from components.config.alignment import AlignmentSettings
    from components.config.clean import CleanSettings
    from components.config.critique import CritiqueSettings
    from components.config.deployments import DeploymentSettings
    from components.config.endpoint import EndpointSettings
    from components.config.evaluate import EvaluateSettings
    from components.config.features import FeatureSettings
    from components.config.model import ModelSettings
    from components.config.notices import NoticeSettings
    from components.config.reference import ReferenceSettings
    from components.config.reward import RewardSettings
    from components.config.services import ServicesSettings
    from components.config.stages import StagesSettings
    from components.config.training import TrainingSettings
    from components.config.validate import ValidateSettings

VALIDATE = "validate_"  # the attribute of section `validate`, whose own name is a method of pydantic's


class Settings(Section):
    """All sections of params.yaml, or those that one stage may read."""

    stage: ClassVar[StageName | None] = None  # whose sections these are; None for all

    if TYPE_CHECKING:
        model: ModelSettings
        training: TrainingSettings
        features: FeatureSettings
        validate_: ValidateSettings
        reward: RewardSettings
        critique: CritiqueSettings
        reference: ReferenceSettings
        alignment: AlignmentSettings
        evaluate: EvaluateSettings
        endpoint: EndpointSettings
        stages: StagesSettings
        services: ServicesSettings
        deployments: DeploymentSettings
        notices: NoticeSettings
        clean: CleanSettings
    else:

        def __getattr__(self, name: str) -> Any:
            section = name.removesuffix("_")
            if section not in SECTIONS:
                return super().__getattr__(name)
            raise AttributeError(
                f"stage {self.stage} may not read settings of section '{section}': list it among the stage's sections in "
                "components/stages.py, and the keys that it reads in dvc.yaml"
            )

    def for_stage(self, stage: StageName) -> Settings:
        """The sections that `stage` may read. Any other raises AttributeError: DVC would not know that the stage depends on it."""
        of_stage = settings_class(stage)
        fields = of_stage.model_fields.items()
        return of_stage.model_construct(**{field.alias or name: getattr(self, name) for name, field in fields})


@cache
def settings_class(stage: StageName | None = None) -> type[Settings]:
    """The class of all settings, or of those of one stage, with its sections as fields."""
    fields: dict[str, Any] = {}
    for section in SECTIONS if stage is None else STAGES[stage].sections:
        kind = load(SECTIONS[section])
        if section == "validate":
            fields[VALIDATE] = (kind, Field(alias=section))
        else:
            fields[section] = (kind, ...)
    made: type[Settings] = create_model("Settings", __base__=Settings, __module__=__name__, **fields)
    made.stage = stage
    return made


def load_settings(path: Path = Path("params.yaml")) -> Settings:
    """Read and check params.yaml. Raises UserError with file, key and cure of every mistake."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run the command in the root of a checkout")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: save it as UTF-8") from error
    values = yaml_values(text, str(path))
    return parse_settings(values, str(path))


def parse_settings(values: Any, where: str, stage: StageName | None = None) -> Settings:
    """Check settings that were read from `where`, which errors name; only the sections of `stage`, where one is named."""
    if not isinstance(values, dict):
        raise UserError(f"{where} must be a mapping of sections, not {type(values).__name__}")
    if stage is not None:
        values = {section: values[section] for section in STAGES[stage].sections if section in values}
    try:
        return settings_class(stage).model_validate(values)
    except ValidationError as error:
        from components.config.mistakes import sentences

        raise UserError(sentences(where, error.errors(), known_keys())) from error


def known_keys() -> list[str]:
    """Every dotted key that params.yaml may hold."""
    return sorted(_keys(settings_class(), ""))


def _keys(section: type[BaseModel], prefix: str) -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        dotted, kind = f"{prefix}{field.alias or name}", field.annotation
        if get_origin(kind) is dict:  # one section for each of its names
            names, inner = get_args(kind)
            keys += [key for one in get_args(names) for key in _keys(inner, f"{dotted}.{one}.")]
        elif isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and issubclass(kind, BaseModel):
            keys += _keys(kind, f"{dotted}.")
        else:
            keys.append(dotted)
    return keys
