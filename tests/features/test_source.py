"""Reads of cached features: their values, and what a process that reads all of them holds in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.checkout import Checkout
from components.families.adapters import Medium, Root
from components.features.entries import Entries
from components.features.source import CachedFeatures, source_of
from components.features.store import FeatureStore, ShardWriter

MEBIBYTE = 1 << 20
ENTRIES = 40  # of a mebibyte each, and a bit: none begins at a page but the first


def medium(number: int) -> Medium:
    return Medium("image", f"picture {number}", {"pixel_values": torch.empty(1), "image_sizes": torch.ones(1, 2)})


@pytest.fixture
def features(tmp_path: Path) -> CachedFeatures:
    media = [medium(number) for number in range(ENTRIES)]
    names = [one.key for one in media]
    with FeatureStore(Checkout(tmp_path)) as store:
        unfilled = Entries.find(names, "context", store)
        writer = ShardWriter(store)
        for number, one in enumerate(media):
            writer.write(unfilled.key(one.key), [torch.full((MEBIBYTE // 4 + 5,), float(number))], source_of(one))
        writer.close()
        entries = Entries.find(names, "context", store)
        return CachedFeatures(entries, {name: store.map(name) for name in entries.shards}, torch.float32, 1, Checkout(tmp_path))


def resident_bytes() -> int:
    """Bytes of mapped shards that this process holds, as the system counts them."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and ":" not in line.split()[0]:
            inside = line.endswith(".shard")
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_reader_of_all_features_holds_none_of_their_pages(features: CachedFeatures) -> None:
    assert resident_bytes() == 0
    for reading in range(2):  # the first read of an entry checks it
        for number in range(ENTRIES):
            (read,) = features.attach(Root((), (medium(number),))).media
            assert read.features is not None
            assert set(read.tensors) == {"image_sizes"}
            assert torch.equal(read.features[0], torch.full((MEBIBYTE // 4 + 5,), float(number))), reading
    assert resident_bytes() <= MEBIBYTE  # the system maps pages around a read one


def test_features_stay_when_their_pages_are_released(features: CachedFeatures) -> None:
    roots = [features.attach(Root((), (medium(number),))) for number in range(3)]
    for number, root in enumerate(roots):
        assert root.media[0].features is not None
        assert float(root.media[0].features[0].mean()) == number
