"""Building DeepSpeed's op."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.engine.ops import BATON, OP, ensure_built
from components.errors import UserError


def test_a_lock_left_by_a_killed_build_is_removed(tmp_path: Path) -> None:
    (tmp_path / OP).mkdir()
    (tmp_path / OP / f"{OP}.so").write_bytes(b"built")
    (tmp_path / OP / BATON).touch()
    ensure_built({"TORCH_EXTENSIONS_DIR": str(tmp_path), "PATH": os.environ["PATH"]})
    assert not (tmp_path / OP / BATON).exists()


def test_without_a_compiler_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler and ninja"):
        ensure_built({"TORCH_EXTENSIONS_DIR": str(tmp_path), "PATH": str(tmp_path)})
