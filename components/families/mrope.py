"""M-RoPE: positions on three axes (time, height, width) for a prompt with media (Qwen2-VL report, section 2.1).

Text counts on all three axes at once. A medium's tokens lie on a grid that starts where the text before it ended; the text after it goes on
behind the longer side of the grid, whatever its length in time: so do the models in transformers.

Shapes: L tokens, three axes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A medium's tokens, merged patches: `time` x `height` x `width` of them; `interval` is the distance of two of them in time."""

    time: int
    height: int
    width: int
    interval: Tensor | float = 1.0

    @property
    def tokens(self) -> int:
        """Placeholders that stand for it."""
        return self.time * self.height * self.width


def mrope_positions(placeholders: Sequence[bool], grids: Iterable[Grid]) -> Tensor:
    """Positions [3, L] of a prompt whose `placeholders` are marked, for media with these grids in their order.

    Raises ValueError when the placeholders are not as many as the grids' tokens.
    """
    remaining = iter(grids)
    parts: list[Tensor] = []
    start = position = 0
    while start < len(placeholders):
        if not placeholders[start]:
            end = start + 1
            while end < len(placeholders) and not placeholders[end]:
                end += 1
            parts.append((torch.arange(end - start) + position).expand(3, -1))
            position += end - start
        else:
            grid = next(remaining, None)
            if grid is None or not all(placeholders[start : start + grid.tokens]) or start + grid.tokens > len(placeholders):
                raise ValueError(f"the placeholders at token {start} do not fit the media's grids")
            time = (torch.arange(grid.time) * grid.interval).long()
            axes = torch.meshgrid(time, torch.arange(grid.height), torch.arange(grid.width), indexing="ij")
            parts.append(torch.stack(axes).reshape(3, -1) + position)
            position += max(grid.height, grid.width)
            end = start + grid.tokens
        start = end
    if next(remaining, None) is not None:
        raise ValueError("more media than placeholders: the prompt lacks a place for one")
    return torch.cat(parts, dim=1)
