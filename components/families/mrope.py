"""M-RoPE: positions on three axes (time, height, width) for a prompt with media (Qwen2-VL report, section 2.1).

Text counts on all three axes at once. A medium's tokens lie on a grid that starts after the last text position. As in transformers, the text
after it continues from the longer side of the grid, independent of the grid's length in time.

Shapes: L tokens, three axes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A medium's tokens (merged patches): `time` x `height` x `width`; `interval` is the distance of two consecutive ones in time."""

    time: int
    height: int
    width: int
    interval: Tensor | float = 1.0

    @property
    def tokens(self) -> int:
        """The number of its placeholders."""
        return self.time * self.height * self.width


def mrope_positions(placeholders: Sequence[bool], grids: Iterable[Grid]) -> Tensor:
    """Positions [3, L] of a prompt. `placeholders` marks its placeholder tokens, `grids` are those of its media in order.

    Raises ValueError when the placeholders and the grids' tokens differ in number.
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
                raise ValueError(f"the placeholders at token {start} do not match the media's grids")
            time = (torch.arange(grid.time) * grid.interval).long()
            axes = torch.meshgrid(time, torch.arange(grid.height), torch.arange(grid.width), indexing="ij")
            parts.append(torch.stack(axes).reshape(3, -1) + position)
            position += max(grid.height, grid.width)
            end = start + grid.tokens
        start = end
    if next(remaining, None) is not None:
        raise ValueError("more media than placeholders: the prompt lacks the placeholder of a medium")
    return torch.cat(parts, dim=1)
