"""Qwen3-VL: as Qwen2-VL, but the first layers of the language model add features of several vision layers (DeepStack), and the prompt states
the time of each frame as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from components.families.base import Kind
from components.families.mrope import Grid
from components.families.qwen2_vl import Qwen2VL


class Qwen3VL(Qwen2VL):
    """The adapter. A vision output has a tensor for the merger and one for each deeper merger."""

    model_type: ClassVar[str] = "qwen3_vl"
    mask_by_layer: ClassVar[bool] = False

    def deeper_arguments(self, deeper: Sequence[Tensor], media_RL: Tensor | None) -> dict[str, Any]:
        """Rows for the placeholders, a tensor a layer."""
        return {"visual_pos_masks": media_RL, "deepstack_visual_embeds": list(deeper)} if deeper else {}

    def _mergers(self, visual: Any) -> list[nn.Module]:
        return [visual.merger, *visual.deepstack_merger_list]

    def _levels(self, outputs: Any) -> list[Tensor]:
        return [outputs.pooler_output, *outputs.deepstack_features]

    def _grids(self, config: Any, kind: Kind, encoded: Any) -> list[list[Grid]]:
        """Every frame of a video has its own grid, after the text with its time."""
        grids = super()._grids(config, kind, encoded)
        return [[Grid(1, grid.height, grid.width) for _ in range(grid.time)] for (grid,) in grids]
