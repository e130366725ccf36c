"""Validates the blocks of a file: remembered ones are read, the others go to this process or, where they are many, to several."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path

from components.errors import UserError
from components.preferences.ranking import Listed
from components.validation.blocks import Block, Outcome, blocks_of
from components.validation.remembered import Remembered
from components.validation.rows import BlockValidator, RowChecks, Split

PARALLEL_SECONDS = 20.0  # of work that is left: a process takes five to start
ROWS_A_SECOND = 1000  # of text, by one process: a guess before any block was validated
AHEAD = 4  # blocks a process that wait for it, so that memory does not grow with the file

log = logging.getLogger(__name__)
_validator: BlockValidator | UserError | None = None  # of a process of the pool


class Reader:
    """Reads files of rows by the same checks. `remembered` is None where nothing is to be remembered.

    `load_seconds` is the time that this process took to load the base's tokenizer and processor.
    """

    def __init__(self, checks: RowChecks, remembered: Remembered | None, processes: int | None = None) -> None:
        self.checks = checks
        self._remembered = remembered
        self.load_seconds = 0.0
        self._processes = processes or len(os.sched_getaffinity(0))

    @cached_property
    def validator(self) -> BlockValidator:
        """The validator of this process. Raises UserError for an unusable base."""
        started = time.monotonic()
        made = BlockValidator(self.checks)
        self.load_seconds = time.monotonic() - started
        return made

    def close(self) -> None:
        """End the processes of this reader."""
        if "validator" in vars(self):
            self.validator.close()

    def read(self, path: Path, split: Split, listed: Listed) -> Iterator[tuple[Block, Outcome]]:
        """Each block of a file with its outcome, in order; blocks come without their bytes."""
        slots: list[tuple[Block, Outcome | None]] = []
        pending: list[int] = []
        for block in blocks_of(path):
            outcome = self._remembered.get(block, split, listed) if self._remembered is not None else None
            pending += [] if outcome is not None else [len(slots)]
            slots.append((block if outcome is None else _without_bytes(block), outcome))
        fresh = iter(self._validate([slots[index][0] for index in pending], split, listed))
        for block, remembered in slots:
            if remembered is not None:
                yield block, remembered
                continue
            outcome = next(fresh)
            if self._remembered is not None and outcome.ranking is None:
                self._remembered.put(block, split, listed, outcome)
            yield _without_bytes(block), outcome

    def _validate(self, blocks: Sequence[Block], split: Split, listed: Listed) -> Iterator[Outcome]:
        """The outcomes of blocks. This process begins, unless the rows alone take long, and hands over when much is left."""
        started = 0.0
        left = sum(len(block.rows) for block in blocks)
        rows, seconds = left, left / ROWS_A_SECOND
        for index, block in enumerate(blocks):
            if seconds > PARALLEL_SECONDS and self._processes > 1:
                yield from self._in_processes(blocks[index:], split, listed)
                return
            validator = self.validator
            started = started or time.monotonic()
            yield validator.validate(block, split, listed)
            left -= len(block.rows)
            seconds = (time.monotonic() - started) * left / (rows - left)

    def _in_processes(self, blocks: Sequence[Block], split: Split, listed: Listed) -> Iterator[Outcome]:
        processes = min(self._processes, len(blocks))
        log.info("%d processes validate %d rows", processes, sum(len(block.rows) for block in blocks))
        context = multiprocessing.get_context("spawn")  # the threads of this process rule a fork out
        with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(self.checks,)) as pool:
            ahead = processes * AHEAD
            futures = [pool.submit(_validate, block, split, listed) for block in blocks[:ahead]]
            for index in range(len(blocks)):
                yield futures[index].result()
                if index + ahead < len(blocks):
                    futures.append(pool.submit(_validate, blocks[index + ahead], split, listed))


def _begin(checks: RowChecks) -> None:
    global _validator  # noqa: PLW0603 -- what a process of the pool has in common for its blocks
    try:
        _validator = BlockValidator(checks, decoders=1)
    except UserError as error:
        _validator = error


def _validate(block: Block, split: Split, listed: Listed) -> Outcome:
    if isinstance(_validator, UserError):
        raise _validator
    assert _validator is not None
    return _validator.validate(block, split, listed)


def _without_bytes(block: Block) -> Block:
    return Block(block.first, [(number, None) for number, _ in block.rows], block.digest)
