"""A plan counts rows that validation has not yet seen: broken ones are left out, and no medium is waited for."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.rehearsal.workload import _rows, medium_size


def test_broken_rows_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(b'{"id": "a"}\n\xe9\n{"id": \n[1]\n' + b"[" * 10_000 + b'\n{"id": "b"}\n')
    assert [row["id"] for row in _rows(tmp_path, "data.jsonl")] == ["a", "b"]


@pytest.mark.parametrize("name", ["pipe", "device", "nul", "surrogate", "text"])
def test_medium_that_is_no_picture_has_no_size(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "text").write_text("text")
    nothing: Any = SimpleNamespace()
    assert medium_size(tmp_path / {"nul": "a\0b", "surrogate": "\ud800"}.get(name, name), nothing, nothing, {}) is None
