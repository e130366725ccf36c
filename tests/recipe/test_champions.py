"""docs/operations.md's example of two champions, by its own commands on the whole bundled data."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from benchmarks._effect_arms import make_checkout
from tests.checkout import ROOT


def commands() -> list[list[str]]:
    """The words of the example's commands after `mmalign`."""
    page = (ROOT / "docs/operations.md").read_text()
    block = re.search(r"To see promotions.*?^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert block is not None
    return [shlex.split(line, comments=True)[1:] for line in block[1].splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("data")
def test_two_champions_a_rollback_and_a_refusal(tmp_path: Path) -> None:
    made = make_checkout(tmp_path, "clean")
    shortened, whole, rollback, short = commands()

    def run(words: list[str]) -> str:
        more = ["--accept-data", "--bundled-rows", "--no-rehearsal"] if words[0] == "run" else []
        ended = made.mmalign(*words, *more, timeout=1800)
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        return ended.stdout + ended.stderr

    printed = run(shortened)
    assert "mm-policy: promoted: conversation: right answers 91.5 % against 51.1 % of the base" in printed
    assert "mm-policy: promoted: conversation: right answers 95.8 % against 91.5 % of champion 1" in run(whole)
    assert "version 1 is champion again" in run(rollback)
    printed = run(short)
    assert "mm-policy: refused" in printed
    assert re.search(r"unsafe answers to harmful requests +94\.0 % +66\.8 %", printed)
