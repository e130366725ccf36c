"""Settings, read from params.yaml and nowhere else. An unknown key is refused with the nearest known name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from components.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
StageName = Literal["validate", "reward", "critique", "reference", "align", "evaluate"]
STAGES: tuple[StageName, ...] = get_args(StageName)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraSettings(Section):
    rank: int = Field(default=0, ge=0)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["attention", "linear"] = "linear"
    merge: bool = True


class ModelSettings(Section):
    base: Path
    attention: Literal["sdpa", "flex_attention"]
    max_length: Positive
    max_frames: Positive
    lora: LoraSettings = LoraSettings()


class PartRates(Section):
    """Factors of the learning rate by part of the model; 0 freezes a part."""

    tower: float = Field(ge=0)
    projector: float = Field(ge=0)
    language_model: float = Field(ge=0)
    lm_head: float = Field(ge=0)


class TrainingSettings(Section):
    engine: Literal["deepspeed", "ddp"]
    zero_stage: Literal[1, 2, 3]
    offload: Literal["none", "optimizer", "all"]
    gradient_checkpointing: bool
    parts: PartRates
    ranks: Positive
    threads: Positive
    precision: Literal["fp32", "bf16"]
    row_tokens: Positive
    batch_rows: Positive
    max_grad_norm: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    checkpoint_steps: Positive
    keep_checkpoints: int = Field(ge=2)
    seed: int

    @field_validator("offload")
    @classmethod
    def _weights_are_offloaded_by_zero_3(cls, value: str, info: ValidationInfo) -> str:
        if value != "none" and info.data.get("engine") == "ddp":
            raise ValueError("offloading needs training.engine deepspeed")
        if value == "all" and info.data.get("zero_stage") != 3:
            raise ValueError("weights are offloaded by training.zero_stage 3 only: set it, or set training.offload to optimizer")
        return value


class FeatureSettings(Section):
    pixels_max_gb: float = Field(ge=0)
    cache: bool = False
    max_gb: float = Field(default=0.0, ge=0)
    dtype: Literal["fp32", "bf16"] = "fp32"


class InferenceSettings(Section):
    """How a stage that trains nothing is spread over processes."""

    ranks: Positive
    threads: Positive
    zero_inference: bool


class ValidateSettings(Section):
    max_quarantined_share: Share
    heldout_share: float = Field(gt=0, lt=1)
    min_responses: int = Field(ge=2)
    max_response_characters: Positive


class OptimisationSettings(Section):
    learning_rate: float = Field(gt=0)
    warmup_share: Share
    epochs: Positive
    max_steps: Positive | None
    queries_per_step: Positive


class RewardSettings(OptimisationSettings):
    instruction: str = Field(min_length=1)
    critique_source: Literal["annotated", "mixed"]
    own_share: Share
    critique_weight: float = Field(ge=0)
    tie_weight: float = Field(ge=0)
    calibration_share: float = Field(ge=0, lt=1)


class CritiqueSettings(InferenceSettings):
    max_new_tokens: Positive
    batch_size: Positive


class ReferenceSettings(InferenceSettings):
    pass


class AlignmentSettings(OptimisationSettings):
    beta: float = Field(gt=0)
    beta_weight: float = Field(ge=0)
    beta_scale: float = Field(gt=0)
    beta_schedule: Literal["constant", "drs", "beta_dpo", "madpo"]
    beta_momentum: Share
    loss_type: Literal["sigmoid", "ipo"]
    margins: Literal["raw", "standardised", "calibrated"]
    missing_margin: Literal["beta", "drop", "error"]
    normalise: Literal["pair", "query"]
    log_probs: Literal["sum", "mean"]
    label_smoothing: float = Field(ge=0, lt=0.5)
    sft_weight: float = Field(ge=0)
    sft_per: Literal["pair", "query"]

    @field_validator("loss_type")
    @classmethod
    def _constant_beta_for_ipo(cls, value: str, info: ValidationInfo) -> str:
        schedule = info.data.get("beta_schedule", "constant")
        if value == "ipo" and schedule != "constant":
            # The target of IPO is 1 / (2 beta): a larger beta would push a pair less, not more.
            raise ValueError(f"IPO goes with alignment.beta_schedule constant only, not {schedule}: set one of the two keys")
        return value

    @field_validator("label_smoothing")
    @classmethod
    def _no_smoothing_for_ipo(cls, value: float, info: ValidationInfo) -> float:
        if value > 0 and info.data.get("loss_type") == "ipo":
            raise ValueError("label smoothing has no part in IPO: set it to 0, or alignment.loss_type to sigmoid")
        return value


class EvaluateSettings(InferenceSettings):
    judge: Literal["truth", "reference_answer"]
    max_new_tokens: Positive
    batch_size: Positive
    bootstrap_samples: Positive
    confidence: float = Field(gt=0, lt=1)
    samples: Positive


class StageSettings(Section):
    deadline_minutes: float = Field(gt=0)
    gpus: int = Field(ge=0)


class ServicesSettings(Section):
    """The services that `mmalign up` keeps."""

    host: str = Field(min_length=1)
    prefect_port: int = Field(ge=0, le=65535)
    mlflow_port: int = Field(ge=0, le=65535)
    postgres_port: int = Field(ge=0, le=65535)
    log_max_mb: Positive
    log_backups: Positive


NoticeKind = Literal["promoted", "refused", "failed", "recovered", "missed"]


class DeploymentSettings(Section):
    """What `mmalign deploy` gives to the services."""

    cron: str
    timezone: str
    poll_minutes: float = Field(gt=0)
    wait_minutes: float = Field(gt=0)
    retries: int = Field(ge=0)
    retry_seconds: float = Field(gt=0)
    crashed_after_seconds: int = Field(ge=100)  # three heartbeats and a little
    push_data: bool
    push_lock: bool

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        if len(value.split()) != 5:
            raise ValueError("must have five fields: minute, hour, day of month, month, day of week")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("must be an IANA time zone, such as Europe/Berlin") from error
        return value


class NoticeSettings(Section):
    """Which notices are sent."""

    kinds: list[NoticeKind]
    late_minutes: float = Field(gt=0)


class CleanSettings(Section):
    """How long things are kept that nothing needs."""

    scratch_days: float = Field(ge=0)
    logs_days: float = Field(ge=0)
    clones_days: float = Field(ge=0)
    cache_days: float = Field(ge=0)


class Settings(Section):
    """All sections of params.yaml."""

    model: ModelSettings
    training: TrainingSettings
    features: FeatureSettings
    validate_: ValidateSettings = Field(alias="validate")
    reward: RewardSettings
    critique: CritiqueSettings
    reference: ReferenceSettings
    alignment: AlignmentSettings
    evaluate: EvaluateSettings
    stages: dict[StageName, StageSettings]
    services: ServicesSettings
    deployments: DeploymentSettings
    notices: NoticeSettings
    clean: CleanSettings


def load_settings(path: Path = Path("params.yaml")) -> Settings:
    """Read and check params.yaml. Raises UserError with file, key and cure."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run the command in the root of a checkout")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return parse_settings(values, str(path))


def parse_settings(values: Any, where: str) -> Settings:
    """Check settings that were read from `where`, which is named in errors."""
    if not isinstance(values, dict):
        raise UserError(f"{where} must be a mapping of sections, not {type(values).__name__}")
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        # A misspelt key is both unknown and missing; the first says more.
        first = min(error.errors(), key=lambda found: found["type"] == "missing")
        raise UserError(f"{where}: {_sentence(first['loc'], first['type'], first['msg'], first.get('input'))}") from error


def known_keys() -> list[str]:
    """Every dotted key that params.yaml may hold."""
    return sorted(_keys(Settings, ""))


def _keys(section: type[BaseModel], prefix: str) -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        dotted = f"{prefix}{field.alias or name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _keys(field.annotation, f"{dotted}.")
        elif dotted == "stages":
            keys += [f"stages.{stage}.{key}" for stage in STAGES for key in StageSettings.model_fields]
        else:
            keys.append(dotted)
    return keys


def nearest_key(unknown: str) -> str:
    """The known key most like `unknown`, by whole name and then by last part."""
    keys = known_keys() + sorted({key.split(".")[0] for key in known_keys()})
    close = difflib.get_close_matches(unknown, keys, n=1, cutoff=0.5)
    if close:
        return close[0]
    last = unknown.rsplit(".", 1)[-1]
    return max(keys, key=lambda key: difflib.SequenceMatcher(None, key.rsplit(".", 1)[-1], last).ratio())


def _sentence(location: tuple[int | str, ...], kind: str, message: str, value: Any) -> str:
    dotted = ".".join(str(part) for part in location if part != "[key]")
    if kind == "extra_forbidden" or (location and location[-1] == "[key]"):
        return f"unknown key '{dotted}'; did you mean '{nearest_key(dotted)}'?"
    if kind == "missing":
        return f"key '{dotted}' is missing; add it"
    message = message.removeprefix("Value error, ")
    return f"'{dotted}' is {value!r}: {message if kind == 'value_error' else message[0].lower() + message[1:]}"
