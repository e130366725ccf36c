"""The ledger against sums by hand: sizes are small numbers, so that each can be added in the head."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.rehearsal.ledger import RESERVE_BYTES, Volume, as_json, ledger
from components.rehearsal.memory import Footprint
from components.rehearsal.plan import Plan, make_plan
from components.stages import STAGE_NAMES
from components.storage.data_version import DataState
from tests.checkout import write_base
from tests.rehearsal.tiny import settings

DISKS = {".dvc": 1, "artifacts": 2}  # all else lies on disk 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_base(tmp_path / "data/base")
    return tmp_path


def toy_plan(root: Path) -> Plan:
    """A plan of models of 20 and 10 bytes, checkpoints of 300 and 200, and features of 50; without rows."""
    plan = make_plan(settings(features={"cache": True, "max_gb": 1e-7}), Checkout(root), None)
    sizes = {"reward": {"checkpoints": 300, "model": 20}, "align": {"checkpoints": 200, "model": 10}}
    return replace(plan, stages={stage: Footprint(disk=sizes.get(stage, {})) for stage in STAGE_NAMES}, features_bytes=50)


def sums(volumes: list[Volume]) -> dict[str, int]:
    return {entry.what: entry.bytes for volume in volumes for entry in volume.entries if entry.bytes}


def volumes_of(root: Path, stages: Collection[str] = STAGE_NAMES, data: DataState | None = None) -> list[Volume]:
    def disk(folder: Path) -> tuple[int, int]:
        first = folder.relative_to(root).parts[0]
        return DISKS.get(first, 0), RESERVE_BYTES + 1000

    return ledger(toy_plan(root), Checkout(root), stages, data, disk)


def put(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(count))


def test_first_run_writes_everything_once_or_twice(root: Path) -> None:
    assert sums(volumes_of(root)) == {
        "checkpoints of reward": 300,  # the larger set: reward's checkpoints are gone before align starts
        "features of the vision tower": 50,
        "outputs of reward": 20,
        "outputs of reward in DVC's cache": 20,
        "outputs of align": 10,
        "outputs of align in DVC's cache": 10,
        "registered models": 30,
    }


def test_what_is_there_is_subtracted(root: Path) -> None:
    put(root / ".mmalign/scratch/reward/key/step-1/weights", 280)
    put(root / ".mmalign/cache/features/shard", 49)
    put(root / "artifacts/reward/model/weights", 20)
    put(root / "artifacts/align/model/weights", 4)
    assert sums(volumes_of(root)) == {
        "checkpoints of align": 200,
        "features of the vision tower": 1,
        "outputs of reward in DVC's cache": 20,  # a new object beside the old one
        "outputs of align": 6,
        "outputs of align in DVC's cache": 10,
        "registered models": 30,
    }


def test_stages_that_do_not_run_write_nothing(root: Path) -> None:
    assert sums(volumes_of(root, ("validate",))) == {}
    assert sums(volumes_of(root, ("align",))) == {
        "checkpoints of align": 200,
        "features of the vision tower": 50,
        "outputs of align": 10,
        "outputs of align in DVC's cache": 10,
        "registered models": 10,
    }


def test_features_are_bounded_by_their_limit(root: Path) -> None:
    plan = replace(toy_plan(root), features_bytes=5000)
    assert sums(ledger(plan, Checkout(root), ("critique",), None))["features of the vision tower"] == 100  # features.max_gb 1e-7


def test_changed_data_are_copied_into_the_cache(root: Path) -> None:
    put(root / "data/models/own/model.safetensors", 700)
    put(root / "data/preferences/a.png", 60)
    state = DataState("x.dir", [], ["data/preferences/a.png"], ["data/models/own/model.safetensors"], 8, cached=False)
    assert sums(volumes_of(root, (), state)) == {"data in DVC's cache": 760}


def test_missing_data_are_fetched_into_cache_and_folder(root: Path) -> None:
    present = sum(path.stat().st_size for path in (root / "data").rglob("*") if path.is_file())
    (root / "data.dvc").write_text(f"outs:\n- md5: x.dir\n  size: {present + 500}\n  path: data\n")
    missing = DataState("x.dir", ["data/preferences/data.jsonl"], [], [], 6, cached=False)
    assert sums(volumes_of(root, (), missing)) == {"data to fetch": 500, "data in DVC's cache": 500}
    assert sums(volumes_of(root, (), replace(missing, cached=True))) == {"data to fetch": 500}


def test_each_file_system_has_its_own_sum(root: Path) -> None:
    volumes = volumes_of(root)
    assert [volume.needed for volume in volumes] == [300 + 50 + 30, 20 + 10, 20 + 10]
    assert [volume.lacking for volume in volumes] == [0, 0, 0]
    full = [replace(volume, free=volume.free - 700) for volume in volumes]  # 300 are left of each beside the reserve
    assert [volume.lacking for volume in full] == [80, 0, 0]
    assert [volume["fits"] for volume in as_json(full)] == [False, True, True]


def test_large_models_are_linked_into_a_registry_nearby(root: Path) -> None:
    plan = toy_plan(root)
    plan.stages["reward"].disk["model"] = 2_000_000_000
    one_disk = ledger(plan, Checkout(root), STAGE_NAMES, None, lambda _: (0, 0))
    assert sums(one_disk)["registered models"] == 10
    apart = ledger(plan, Checkout(root), STAGE_NAMES, None, lambda folder: (int(folder.name == "mlruns"), 0))
    assert sums(apart)["registered models"] == 2_000_000_010


def test_missing_base_model_counts_with_its_copy(root: Path) -> None:
    chosen = settings(model={"base": "data/models/InternVL3-1B-hf"})
    plan = make_plan(chosen, Checkout(root), None)
    size = plan.model.total * 4  # fp32 by these settings
    put(root / "data/models/InternVL3-1B-hf.partial/model.safetensors", 1000)
    written = sums(ledger(plan, Checkout(root), (), None))
    assert written == {"base model to fetch": size - 1000, "base model in DVC's cache": size}


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")  # noqa: S108
def test_linked_folder_counts_where_its_files_lie(root: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (root / ".mmalign").symlink_to(elsewhere)
        volumes = {
            frozenset(entry.folder.name for entry in volume.entries if entry.bytes): volume
            for volume in ledger(toy_plan(root), Checkout(root), STAGE_NAMES, None)
        }
    linked = next(volume for names, volume in volumes.items() if "features" in names)
    usage = os.statvfs("/dev/shm")  # noqa: S108
    assert linked.needed == 350
    assert linked.free == pytest.approx(usage.f_bavail * usage.f_frsize, rel=0.05)
    assert sum(volume.needed for volume in volumes.values()) == 350 + 20 + 20 + 10 + 10 + 30
