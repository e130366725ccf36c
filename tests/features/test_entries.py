from pathlib import Path

import pytest
import torch

from components.checkout import Checkout
from components.features.entries import Entries
from components.features.store import FeatureStore, ShardWriter
from components.files import digest_bytes

MEDIA = [digest_bytes(str(number)) for number in range(7)]
CACHED = [0, 2, 3, 6]


@pytest.fixture
def entries(tmp_path: Path) -> Entries:
    """Entries of some media, in shards of one entry, with two layouts."""
    with FeatureStore(Checkout(tmp_path)) as store:
        writer = ShardWriter(store, shard_bytes=1)
        for number in CACHED:
            writer.write(digest_bytes(MEDIA[number], "context"), [torch.full((number % 2 + 1, 3), float(number))], f"source {number % 2}")
        writer.close()
        result = Entries.find(MEDIA, "context", store, chunk=2)
        for number in CACHED:
            key = result.key(MEDIA[number])
            assert result.entry(number, MEDIA[number]) == store.find([key])[key]
    return result


def test_media_are_found_by_their_name(entries: Entries) -> None:
    assert [entries.position(medium) for medium in MEDIA] == list(range(7))
    assert entries.position(digest_bytes("another run's")) is None
    assert entries.position("z" * 64) is None
    assert [number for number, _ in entries.all(MEDIA)] == CACHED
    assert entries.cached.tolist() == [number in CACHED for number in range(7)]
    assert entries.entry(1, MEDIA[1]) is None


def test_dropped_entry_leaves_its_shard(entries: Entries) -> None:
    entry = entries.entry(2, MEDIA[2])
    assert entry is not None
    assert entry.shard in entries.shards
    before = entries.nbytes
    entries.drop([2])
    assert entries.entry(2, MEDIA[2]) is None
    assert entry.shard not in entries.shards
    assert len(entries.shards) == 3
    assert entries.nbytes == before - entry.nbytes


def test_media_without_any_entry_have_no_shards(tmp_path: Path) -> None:
    with FeatureStore(Checkout(tmp_path)) as store:
        empty = Entries.find(MEDIA, "context", store)
    assert empty.shards == []
    assert not empty.cached.any()
