from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from components.checkout import Checkout
from components.storage.content_cache import ContentCache


def test_values_of_simultaneous_creators_are_all_stored(tmp_path: Path) -> None:
    together = Barrier(4)

    def create(checkout: Checkout, number: int) -> None:
        together.wait()
        with ContentCache(checkout, "sums") as cache:
            cache.store({f"key {number}": number})

    with ThreadPoolExecutor(4) as pool:
        for attempt in range(40):
            checkout = Checkout(tmp_path / str(attempt))
            list(pool.map(create, [checkout] * 4, range(4)))
            with ContentCache(checkout, "sums") as cache:
                assert cache.find(f"key {number}" for number in range(4)) == {f"key {number}": number for number in range(4)}
