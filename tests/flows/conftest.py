"""A checkout a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkout import make_checkout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout with real git and DVC, as the current folder."""
    folder = make_checkout(tmp_path / "checkout")
    monkeypatch.chdir(folder)
    return folder
