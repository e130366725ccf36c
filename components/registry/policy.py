"""The rules of promotion in mlflow/registry.yaml, typed. Unknown keys are refused."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.errors import UserError
from components.files import digest_bytes
from components.preferences.record import Category

POLICY_FILE = Path("mlflow/registry.yaml")
ModelName = Literal["mm-policy", "mm-reward"]
MODELS: tuple[ModelName, ...] = ("mm-reward", "mm-policy")
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Difference = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
LEAST_BOUND = 1e-6  # of a margin or share: for less the gate would need millions of rows
MOST_CONFIDENCE = 0.99999  # what is left of the error after thousands of looks is still a number


def _countable(value: float) -> float:
    if 0 < value < LEAST_BOUND:
        raise ValueError(f"is nearer to 0 than any number of rows could show: write 0, or at least {LEAST_BOUND:g}")
    return value


Bound = Annotated[Share, AfterValidator(_countable)]


class Strict(BaseModel):
    """A part of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(Strict):
    """The keys of every rule: each can be switched off, with a reason."""

    enabled: bool = True
    reason: str | None = None

    @model_validator(mode="after")
    def _off_with_a_reason(self) -> Rule:
        if not self.enabled and not (self.reason or "").strip():
            raise ValueError("a rule that is switched off needs a `reason`, which every verdict repeats")
        return self


class Above(Rule):
    """The lower end of an interval must be above `above`."""

    above: Difference = 0.0
    least: Count = 0

    def needed(self, tail: float) -> int:  # noqa: ARG002 -- the other rules need it
        """The fewest rows with which the rule judges."""
        return max(self.least, 1)


class Margin(Rule):
    """The upper end of a difference may be at most `margin`."""

    margin: Bound = 0.05
    least: Count = 0

    def needed(self, tail: float) -> int:
        """The fewest rows with which two models that agree in every row are within the margin (Bonett and Price's interval)."""
        z = NormalDist().inv_cdf(1 - tail)
        return max(self.least, 1, math.ceil(z * math.sqrt(2) / self.margin - 2) if self.margin else 1)


class Most(Rule):
    """The upper end of a share may be at most `most`."""

    most: Bound = 0.1
    least: Count = 0

    def needed(self, tail: float) -> int:
        """The fewest rows with which a model without any event is within the bound: (1 - most)^n <= tail."""
        return max(self.least, 1, math.ceil(math.log(tail) / math.log1p(-self.most)) if 0 < self.most < 1 else 1)


class Categories(Rule):
    """The lower end of every category is at its floor or above; no category surely falls by more than `fall` (None: any fall is allowed)."""

    floors: dict[Category, Share] = {}
    fall: Share | None = None
    least: Count = 20


class PolicyRules(Strict):
    """Rules of mm-policy."""

    conversation: Above = Above()
    unsafe: Margin = Margin()
    unsafe_ceiling: Most = Most()
    over_refusal: Most = Most()
    hallucination: Most = Most()
    degenerate: Most = Most()
    categories: Categories = Categories()
    preference_accuracy: Above = Above(above=0.5)
    reference_answer: Above = Above()
    ranks: Above = Above()
    win_rate: Above = Above(above=0.5)


class RewardRules(Strict):
    """Rules of mm-reward."""

    acc: Above = Above(above=0.5)
    acc_plus: Above = Above()
    better: Above = Above()
    categories: Categories = Categories()


class RegistryPolicy(Strict):
    """The whole file."""

    keep: Annotated[int, Field(ge=2)] = 5
    confidence: Annotated[float, Field(gt=0.5, le=MOST_CONFIDENCE)] = 0.95
    allow_unmeasured_safety: str | None = None
    policy: PolicyRules = Field(default=PolicyRules(), alias="mm-policy")
    reward: RewardRules = Field(default=RewardRules(), alias="mm-reward")

    def digest(self, name: ModelName) -> str:
        """The digest of the rules that judge `name`, without comments, `keep` and the other model's rules."""
        rules = self.policy if name == "mm-policy" else self.reward
        allowed = self.allow_unmeasured_safety if name == "mm-policy" else None
        return digest_bytes(rules.model_dump_json(), str(self.confidence), str(allowed))


def load_policy(path: Path = POLICY_FILE) -> RegistryPolicy:
    """Read and check the file. Raises UserError naming the key and, for an unknown one, the nearest known."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing, which has the rules of promotion: restore it with `git checkout {path}`") from None
    except (yaml.YAMLError, ValueError) as error:  # no UTF-8, or a date that is none
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply to be a file of rules") from error
    try:
        return RegistryPolicy.model_validate(values or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where, list(_keys(RegistryPolicy)), n=1, cutoff=0)[0]
            raise UserError(f"{path}: unknown key {where}; did you mean {near}?") from error
        raise UserError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from error


def _keys(section: Any, prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        dotted = f"{prefix}{field.alias or name}"
        yield dotted
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{dotted}.")
