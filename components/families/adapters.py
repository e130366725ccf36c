"""The adapters of all model families; a checkpoint's `model_type` selects one."""

from __future__ import annotations

from typing import Any

from components.errors import UserError
from components.families.base import Family, FeatureSource, Medium, Projected, Root, VisionOutput
from components.families.internvl import InternVL
from components.families.llava_onevision import LlavaOnevision
from components.families.qwen2_5_vl import Qwen25VL
from components.families.qwen2_vl import Qwen2VL
from components.families.qwen3_vl import Qwen3VL

FAMILIES: dict[str, Family] = {family.model_type: family for family in (InternVL(), LlavaOnevision(), Qwen2VL(), Qwen25VL(), Qwen3VL())}

__all__ = ["FAMILIES", "Family", "FeatureSource", "Medium", "Projected", "Root", "VisionOutput", "family_of"]


def family_of(config: Any) -> Family:
    """The adapter for a model's or processor's configuration. Raises UserError for an unsupported family, or for a checkpoint that its adapter can't read."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        supported = ", ".join(sorted(FAMILIES))
        raise UserError(
            f"models of type '{config.model_type}' are not supported: set model.base in params.yaml to a model of one of {supported}"
        )
    family.check(config)
    return family
