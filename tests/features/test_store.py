"""Shards on disk: a reader gets whole entries, and no torn, damaged or partial ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from components.checkout import Checkout
from components.features.store import FeatureStore, ShardWriter, intact, unpacked


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with FeatureStore(Checkout(tmp_path)) as opened:
        yield opened


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in ((2, 5, 3), (7,)))


def fill(store: FeatureStore, names: str, shard_bytes: int = 10**9) -> None:
    writer = ShardWriter(store, shard_bytes)
    for number, name in enumerate(names):
        writer.write(name, tensors(number), "source")
    writer.close()


def read(store: FeatureStore, key: str) -> tuple[torch.Tensor, ...] | None:
    entry = store.find([key])[key]
    content = store.map(entry.shard)
    return unpacked(content, entry) if intact(content, entry) else None


@pytest.mark.parametrize("shard_bytes", [1, 300, 10**9], ids=["a shard an entry", "some", "one shard"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_entries_come_back_bit_by_bit(store: FeatureStore, shard_bytes: int, dtype: torch.dtype) -> None:
    writer = ShardWriter(store, shard_bytes)
    for number in range(5):
        writer.write(str(number), tensors(number, dtype), f"source {number}")
    writer.close()
    for number in range(5):
        entry = read(store, str(number))
        assert entry is not None
        assert all(torch.equal(one, other) for one, other in zip(entry, tensors(number, dtype), strict=True))
        assert store.find([str(number)])[str(number)].source == f"source {number}"


def test_entry_counts_once_its_shard_is_in_place(store: FeatureStore) -> None:
    writer = ShardWriter(store)
    writer.write("a", tensors(0), "source")
    assert store.find(["a"]) == {}
    writer.close()
    assert set(store.find(["a", "b"])) == {"a"}


def test_partial_and_unindexed_shards_are_swept(store: FeatureStore) -> None:
    fill(store, "a")
    ShardWriter(store).write("b", tensors(1), "source")
    (store.folder / "stray.shard").write_bytes(b"1")
    assert store.sweep() == {}
    assert sorted(path.name for path in store.folder.iterdir() if path.suffix in {".shard", ".tmp"}) == [store.find(["a"])["a"].shard]


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_torn_shard_is_forgotten_with_its_entries(store: FeatureStore, damage: str) -> None:
    fill(store, "abc", shard_bytes=200)
    shard = store.find(["a"])["a"].shard
    path = store.folder / shard
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    lost = store.sweep()
    assert lost == {shard: sum(entry.shard == shard for entry in [*store.find("abc").values()]) or lost[shard]}
    assert "a" not in store.find("abc")
    assert "c" in store.find("abc")
    assert not path.exists()


def test_flipped_bit_is_detected(store: FeatureStore) -> None:
    fill(store, "ab")
    entry = store.find(["b"])["b"]
    path = store.folder / entry.shard
    content = bytearray(path.read_bytes())
    content[entry.offset + 3] ^= 1
    path.write_bytes(content)
    assert read(store, "b") is None
    assert read(store, "a") is not None


def test_eviction_is_least_recent_first_and_spares_used_shards(store: FeatureStore) -> None:
    fill(store, "abcd", shard_bytes=1)
    shards = {key: entry.shard for key, entry in store.find("abcd").items()}
    store.touch([shards["a"]])
    one = store.bytes_of([shards["a"]])
    assert store.evict(0, 4 * one, []) == []
    assert store.evict(one, 3 * one, [shards["c"]]) == [shards["b"], shards["d"]]
    assert set(store.find("abcd")) == {"a", "c"}
    assert store.nbytes == 2 * one
    assert store.evict(100 * one, one, [shards["a"], shards["c"]]) == []


def test_mapped_shard_is_read_after_its_eviction(store: FeatureStore) -> None:
    fill(store, "a")
    entry = store.find(["a"])["a"]
    mapped = store.map(entry.shard)
    store.evict(0, 0, [])
    assert list(store.folder.glob("*.shard")) == []
    mapped_tensors = unpacked(mapped, entry)
    assert mapped_tensors is not None
    assert torch.equal(mapped_tensors[0], tensors(0)[0])


def test_reader_writes_stay_private(store: FeatureStore) -> None:
    fill(store, "a")
    first = read(store, "a")
    assert first is not None
    first[0].zero_()
    second = read(store, "a")
    assert second is not None
    assert torch.equal(second[0], tensors(0)[0])


def test_rewritten_entry_replaces_older_one(store: FeatureStore) -> None:
    fill(store, "a")
    with FeatureStore(Checkout(store.folder.parents[2])) as other:
        writer = ShardWriter(other)
        writer.write("a", tensors(9), "source")
        writer.close()
    entry = read(store, "a")
    assert entry is not None
    assert torch.equal(entry[0], tensors(9)[0])


def test_damaged_index_is_rebuilt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FeatureStore(Checkout(tmp_path)) as store:
        fill(store, "a")
    (store.folder / "index.sqlite").write_bytes(b"not a database, and long enough to be read as one" * 100)
    with FeatureStore(Checkout(tmp_path)) as rebuilt:
        assert "is damaged" in capsys.readouterr().out
        assert rebuilt.find(["a"]) == {}
        rebuilt.sweep()
        assert list(rebuilt.folder.glob("*.shard")) == []
