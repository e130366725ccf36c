"""A small data set, built twice by rule and once with the installed base."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.build import SIZES, build_data
from demo.wordings import Part

SMALL: dict[Part, dict[str, int]] = {
    "train": dict.fromkeys(SIZES["train"], 6),
    "heldout": dict.fromkeys(SIZES["heldout"], 4),
    "hard": dict.fromkeys(SIZES["hard"], 2),
}


@pytest.fixture(scope="session")
def installed(data: Path) -> Path:
    """The data set of the checkout."""
    return data


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set whose responses are all made by rule."""
    out = tmp_path_factory.mktemp("demo") / "small"
    build_data(out, None, sizes=SMALL)
    return out
