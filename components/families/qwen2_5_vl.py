"""Qwen2.5-VL: as Qwen2-VL, with windowed attention in the vision tower and time positions in proportion to seconds."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from components.families.base import Kind
from components.families.qwen2_vl import Qwen2VL


class Qwen25VL(Qwen2VL):
    """The adapter."""

    model_type: ClassVar[str] = "qwen2_5_vl"

    def _interval(self, config: Any, kind: Kind, encoded: Any, number: int) -> Tensor | float:
        """A second of a video is `tokens_per_second` positions long."""
        if kind == "image":
            return 1.0
        interval: Tensor = config.vision_config.tokens_per_second * encoded["second_per_grid_ts"][number]
        return interval
