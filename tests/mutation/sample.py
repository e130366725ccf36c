"""Which mutants are tried: a seeded sample, in which every file has the weight of its number of mutants."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from tests.mutation.mutant import Mutant


def draw(by_file: Mapping[str, Sequence[Mutant]], count: int, seed: int) -> list[Mutant]:
    """`count` mutants, or all where there are fewer; the same ones for the same seed, in the order of files and lines."""
    total = sum(len(entries) for entries in by_file.values())
    count = min(count, total)
    shares = {path: count * len(entries) / total for path, entries in by_file.items() if entries}
    sizes = {path: int(share) for path, share in shares.items()}
    by_remainder = sorted(shares, key=lambda path: (sizes[path] - shares[path], path))
    for path in by_remainder[: count - sum(sizes.values())]:
        sizes[path] += 1
    chosen: list[Mutant] = []
    for path in sorted(sizes):
        numbers = random.Random(f"{seed} {path}").sample(range(len(by_file[path])), sizes[path])  # noqa: S311 -- no secret
        chosen += [by_file[path][number] for number in sorted(numbers)]
    return chosen
