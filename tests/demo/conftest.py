"""A small data set, built twice by rule and once with the installed base."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.build import HELDOUT, TRAIN, build_data

SMALL_TRAIN = dict.fromkeys(TRAIN, 6)
SMALL_HELDOUT = dict.fromkeys(HELDOUT, 4)


@pytest.fixture(scope="session")
def installed(data: Path) -> Path:
    """The data set of the checkout."""
    return data


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set whose responses are all made by rule."""
    out = tmp_path_factory.mktemp("demo") / "small"
    build_data(out, None, train=SMALL_TRAIN, heldout=SMALL_HELDOUT)
    return out
