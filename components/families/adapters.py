"""Model families: one small adapter each, chosen by a checkpoint's `model_type`."""

from __future__ import annotations

from typing import Any

from components.errors import UserError
from components.families.base import Family, FeatureSource, Medium, Projected, Root, TowerOutput
from components.families.internvl import InternVL
from components.families.llava_onevision import LlavaOnevision
from components.families.qwen2_5_vl import Qwen25VL
from components.families.qwen2_vl import Qwen2VL
from components.families.qwen3_vl import Qwen3VL

FAMILIES: dict[str, Family] = {family.model_type: family for family in (InternVL(), LlavaOnevision(), Qwen2VL(), Qwen25VL(), Qwen3VL())}

__all__ = ["FAMILIES", "Family", "FeatureSource", "Medium", "Projected", "Root", "TowerOutput", "family_of"]


def family_of(config: Any) -> Family:
    """The adapter for a model's or processor's configuration. Raises UserError naming the families that there are, or what the adapter can't read."""
    found = FAMILIES.get(config.model_type)
    if found is None:
        known = ", ".join(sorted(FAMILIES))
        raise UserError(
            f"models of type '{config.model_type}' are not supported (known: {known}): set model.base in params.yaml to one that is"
        )
    found.check(config)
    return found
