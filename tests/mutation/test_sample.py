from __future__ import annotations

from collections import Counter

from tests.mutation.mutant import Mutant
from tests.mutation.sample import draw


def file_of(path: str, count: int) -> list[Mutant]:
    return [Mutant(path, n, "comparison", n, n, "", "", "", n, n, False, f"{path}{n}") for n in range(count)]


BY_FILE = {"a": file_of("a", 50), "b": file_of("b", 30), "c": file_of("c", 5)}


def test_files_weigh_by_their_number_of_mutants() -> None:
    # 20 of 85: shares 11.76, 7.06 and 1.18, so the one that is left goes to a
    assert Counter(mutant.path for mutant in draw(BY_FILE, 20, 0)) == {"a": 12, "b": 7, "c": 1}


def test_sample_is_the_seeds_own_and_has_no_mutant_twice() -> None:
    first = draw(BY_FILE, 40, 3)
    assert first == draw(dict(reversed(BY_FILE.items())), 40, 3)
    assert first != draw(BY_FILE, 40, 4)
    assert len(set(first)) == 40


def test_small_package_is_tried_whole() -> None:
    assert len(draw(BY_FILE, 100, 0)) == 85
