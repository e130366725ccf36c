"""Mixed training's own critiques: which queries use them in an epoch, and the texts, kept in scratch.

- They are written before an epoch's first step, each rank its share, part by part, and named by the checkpoints of that epoch, so that a
  killed run resumes with the same ones.
- A part file holds a fixed slice of the work and is written whole, so that a kill during writing costs one part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from components.engine.task import EpochContext
from components.files import read_json, write_json
from components.preferences.record import Query

Writer = Callable[[Sequence[tuple[Query, str]]], list[str]]  # the critiques of (query, response) pairs, in order

PART_QUERIES = 128  # queries of one part file: what a kill during writing can cost


def own_queries(count: int, share: float, seed: int, epoch: int) -> list[int]:
    """Sorted indices of the queries that use their own critiques in `epoch`: none in the first, a drawn `share` of them after it."""
    if epoch == 0:
        return []
    drawn = np.random.default_rng((seed, epoch, 1)).permutation(count)[: round(share * count)]
    return sorted(int(index) for index in drawn)


def critiques_file(scratch: Path, epoch: int) -> Path:
    """Where an epoch's critiques lie, once all ranks have written theirs."""
    return scratch / "critiques" / f"epoch-{epoch}.json"


def write_part_files(write: Writer, queries: Sequence[Query], chosen: Sequence[int], epoch: int, context: EpochContext) -> None:
    """Write this rank's parts of the epoch's critiques; parts that are there already are left."""
    for number, start in enumerate(range(0, len(chosen), PART_QUERIES)):
        path = _part_file(context.scratch, epoch, number)
        if number % context.world != context.rank or path.is_file():
            continue
        part = chosen[start : start + PART_QUERIES]
        items = [(queries[index], response.text) for index in part for response in queries[index].responses]
        texts = iter(write(items))
        write_json(path, {queries[index].id: [next(texts) for _ in queries[index].responses] for index in part})
        print(f"own critiques, epoch {epoch + 1}: part {number + 1} of {-(-len(chosen) // PART_QUERIES)} written", flush=True)


def merge_part_files(scratch: Path, epoch: int, count: int) -> None:
    """Join the parts of `count` queries into the epoch's file."""
    merged: dict[str, list[str]] = {}
    for number in range(-(-count // PART_QUERIES)):
        merged.update(read_json(_part_file(scratch, epoch, number)))
    write_json(critiques_file(scratch, epoch), merged)


def _part_file(scratch: Path, epoch: int, number: int) -> Path:
    return scratch / "critiques" / f"epoch-{epoch}-part-{number}.json"
