"""Blocks are remembered by content, and processes share them, without a difference in what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.validation import blocks, reader
from components.validation.blocks import Block, Outcome, blocks_of
from components.validation.intake import HeldoutContent, Intake, read_file
from components.validation.reader import Reader
from components.validation.remembered import Remembered
from components.validation.rows import BlockValidator, RowChecks
from tests.validation.conftest import DataCheckout


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROWS", 3)


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows of the blocks that are validated in this process."""
    counts: list[int] = []
    original = BlockValidator.validate

    def validate(self: BlockValidator, block: Block, split: str, listed: str) -> Outcome:
        counts.append(len(block.rows))
        return original(self, block, split, listed)  # type: ignore[arg-type]

    monkeypatch.setattr(BlockValidator, "validate", validate)
    return counts


def read(checkout: DataCheckout, *, remember: bool = True, processes: int = 1, **limits: object) -> Intake:
    checks = RowChecks.of(checkout.settings(validate=limits), Checkout(checkout.root), checkout.preferences)
    remembered = Remembered(checkout.root / "remembered", checks) if remember else None
    return read_file(Reader(checks, remembered, processes), checkout.preferences / "data.jsonl", "data.jsonl", "train", HeldoutContent())


def outcome(intake: Intake) -> object:
    return intake.summaries, intake.queries(), intake.refusals, intake.rows, intake.unread


@pytest.mark.usefixtures("small_blocks")
def test_blocks_are_the_rows_whatever_their_bounds(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(b'{"id": %d}\n\n' % number for number in range(50)))
    read_blocks = list(blocks_of(path))
    assert [number for block in read_blocks for number, _ in block.rows] == list(range(1, 100, 2))
    assert 5 < len(read_blocks) < 40


@pytest.mark.usefixtures("small_blocks")
def test_inserted_row_changes_one_block(tmp_path: Path) -> None:
    rows = [b'{"id": %d}\n' % number for number in range(60)]
    digests = []
    for content in (rows, [*rows[:30], b'{"id": "new"}\n', *rows[30:]]):
        (tmp_path / "rows.jsonl").write_bytes(b"".join(content))
        digests.append({block.digest for block in blocks_of(tmp_path / "rows.jsonl")})
    assert len(digests[1] - digests[0]) <= 2


@pytest.mark.usefixtures("small_blocks")
def test_remembered_rows_are_the_same_and_not_validated_anew(checkout: DataCheckout, validated: list[int]) -> None:
    rows = [checkout.row(number, extra=1) for number in range(20)]
    checkout.write("data.jsonl", [*rows, "{", checkout.row(90, image="short/none.png")])
    first = outcome(read(checkout))
    validated.clear()
    assert outcome(read(checkout)) == first
    assert validated == []
    checkout.write("data.jsonl", [checkout.row(50), *rows, "{", checkout.row(90, image="short/none.png")])
    inserted = read(checkout)
    assert sum(validated) < 12
    assert outcome(inserted) == outcome(read(checkout, remember=False))


@pytest.mark.usefixtures("small_blocks")
def test_changed_medium_setting_or_damage_validates_anew(checkout: DataCheckout, validated: list[int]) -> None:
    checkout.write("data.jsonl", [checkout.row(number) for number in range(12)])
    first = read(checkout)
    checkout.picture("short/3.png", 999)
    validated.clear()
    changed = read(checkout)
    assert 0 < sum(validated) < 12
    assert {a.id for a, b in zip(first.summaries, changed.summaries, strict=True) if a != b} == {"row-3"}
    validated.clear()
    read(checkout, max_response_characters=7)
    assert sum(validated) == 12
    for path in (checkout.root / "remembered").glob("*.arrow"):
        path.write_bytes(path.read_bytes()[:100])
    validated.clear()
    assert outcome(read(checkout)) == outcome(changed)
    assert sum(validated) == 12


def test_missing_medium_that_comes_is_examined(checkout: DataCheckout) -> None:
    checkout.write("data.jsonl", [checkout.row(0), checkout.row(1, image="short/late.png")])
    assert len(read(checkout).refusals) == 1
    checkout.picture("short/late.png", 7)
    assert read(checkout).refusals == []


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
def test_processes_give_the_same_outcome(checkout: DataCheckout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PARALLEL_SECONDS", 0.0)
    rows = [checkout.row(number) for number in range(30)]
    checkout.write("data.jsonl", [*rows, "{", checkout.row(90, ethical=[9, 9, 9]), json.dumps(rows[0] | {"id": "copy"})])
    together = read(checkout, remember=False, processes=2)
    assert outcome(together) == outcome(read(checkout, remember=False))
    assert len(together.refusals) == 3
