"""Settings: params.yaml holds what changes results, ops.yaml what does not. All mistakes are reported at once, an unknown key with the nearest name.

Each section has a class; `components.stages` lists them, and which stage may read which. This module imports none of them but to parse a file,
so that a new key of one stage's section is no change in another stage's code.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, create_model

from components.config.reading import yaml_values
from components.config.section import Section
from components.errors import UserError
from components.stages import OPS_SECTIONS, SECTIONS, STAGES, StageName, load

if TYPE_CHECKING:
    from components.config.alignment import AlignmentSettings
    from components.config.critique import CritiqueSettings
    from components.config.endpoint import EndpointSettings
    from components.config.evaluate import EvaluateSettings
    from components.config.features import FeatureSettings
    from components.config.model import ModelSettings
    from components.config.ops import CleanSettings, DeploymentSettings, NoticeSettings, ServicesSettings, StagesSettings
    from components.config.reference import ReferenceSettings
    from components.config.reward import RewardSettings
    from components.config.training import TrainingSettings
    from components.config.validate import ValidateSettings

OPS = "ops.yaml"
VALIDATE = "validate_"  # the attribute of section `validate`, whose own name is a method of pydantic's


class Settings(Section):
    """All sections of params.yaml and ops.yaml, those of params.yaml, or those that one stage may read."""

    stage: ClassVar[StageName | None] = None  # whose sections these are; None for all of a file

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
            if section in OPS_SECTIONS and self.stage is None:
                raise AttributeError(f"these settings were read without {OPS}, which has section '{section}': use load_settings")
            if section not in {**SECTIONS, **OPS_SECTIONS}:
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
def settings_class(stage: StageName | None = None, *, ops: bool = True) -> type[Settings]:
    """The class of all settings (without those of ops.yaml where `ops` is false), or of those of one stage, with its sections as fields."""
    table = {**SECTIONS, **OPS_SECTIONS} if ops else SECTIONS
    fields: dict[str, Any] = {}
    for section in table if stage is None else STAGES[stage].sections:
        kind = load(table[section])
        if section == "validate":
            fields[VALIDATE] = (kind, Field(alias=section))
        else:
            fields[section] = (kind, ...)
    made: type[Settings] = create_model("Settings", __base__=Settings, __module__=__name__, **fields)
    made.stage = stage
    return made


def settings_files(path: Path) -> dict[Path, Mapping[str, str]]:
    """params.yaml, which lies at `path`, and the ops.yaml beside it, each with the sections that it holds."""
    return {path: SECTIONS, path.with_name(OPS): OPS_SECTIONS}


def load_settings(path: Path = Path("params.yaml"), texts: Mapping[Path, str] | None = None, where: str = "") -> Settings:
    """Read and check params.yaml and ops.yaml. Raises UserError with file, key and cure of every mistake.

    `texts` stand in for files, and come from `where`, which errors then name.
    """
    texts = texts or {}
    values = {file: _read(file, texts.get(file)) for file in settings_files(path)}
    try:
        settings = settings_class().model_validate({key: value for sections in values.values() for key, value in sections.items()})
        errors: list[Any] = []
    except ValidationError as error:
        errors = list(error.errors())
    if not errors and all(sections.keys() <= settings_files(path)[file].keys() for file, sections in values.items()):
        return settings
    from components.config.mistakes import sentences_by_file

    names = {file: where if where and file in texts else str(file) for file in values}
    raise UserError(sentences_by_file(names, values, settings_files(path), errors, known_keys()))


def _read(path: Path, text: str | None) -> Mapping[str, Any]:
    if text is None and not path.is_file():
        raise UserError(f"{path} is missing: {'restore it with git' if path.name == OPS else 'run the command in the root of a checkout'}")
    try:
        values = yaml_values(path.read_text(encoding="utf-8") if text is None else text, str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: save it as UTF-8") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a mapping of sections, not {type(values).__name__}")
    return values


def parse_settings(values: Any, where: str, stage: StageName | None = None) -> Settings:
    """Check settings that were read from `where`, which errors name: all of params.yaml, with or without all of ops.yaml, or those of `stage`."""
    if not isinstance(values, dict):
        raise UserError(f"{where} must be a mapping of sections, not {type(values).__name__}")
    if stage is not None:
        values = {section: values[section] for section in STAGES[stage].sections if section in values}
    try:
        made = settings_class(ops=any(section in OPS_SECTIONS for section in values)) if stage is None else settings_class(stage)
        return made.model_validate(values)
    except ValidationError as error:
        from components.config.mistakes import sentences

        raise UserError(sentences(where, error.errors(), known_keys())) from error


def known_keys() -> list[str]:
    """Every dotted key that params.yaml or ops.yaml may hold."""
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
