"""Positions on three axes, by hand."""

from __future__ import annotations

import pytest
import torch

from components.families.mrope import Grid, mrope_positions


def test_text_counts_on_all_axes() -> None:
    assert mrope_positions([False] * 3, []).tolist() == [[0, 1, 2]] * 3


def test_text_continues_after_longer_side_of_image_grid() -> None:
    positions = mrope_positions([False, *[True] * 6, False], [Grid(1, 2, 3)])
    assert positions.tolist() == [[0, 1, 1, 1, 1, 1, 1, 4], [0, 1, 1, 1, 2, 2, 2, 4], [0, 1, 2, 3, 1, 2, 3, 4]]


def test_frames_are_their_interval_apart() -> None:
    positions = mrope_positions([*[True] * 3, False], [Grid(3, 1, 1, torch.tensor(2.5))])
    assert positions.tolist() == [[0, 2, 5, 1], [0, 0, 0, 1], [0, 0, 0, 1]]


def test_adjacent_media_are_separated_by_grids() -> None:
    assert mrope_positions([True] * 3, [Grid(1, 1, 2), Grid(1, 1, 1)]).tolist() == [[0, 0, 2], [0, 0, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("placeholders", "grids"),
    [([True], []), ([True, False], [Grid(1, 1, 2)]), ([True], [Grid(1, 1, 2)]), ([False], [Grid(1, 1, 1)])],
    ids=["no medium", "cut short", "too few", "no place"],
)
def test_mismatched_placeholders_are_refused(placeholders: list[bool], grids: list[Grid]) -> None:
    with pytest.raises(ValueError, match="media"):
        mrope_positions(placeholders, grids)
