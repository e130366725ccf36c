from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import StageFault, UserError
from components.families.digests import model_digest
from components.operations.doctor.services import registered_models
from components.registry.packaging import WEIGHTS
from components.registry.registry import Registry
from components.registry.store import open_store
from components.registry.versions import CHALLENGER, CHAMPION, MADE_WHOLE_FROM
from components.storage import objects
from tests.registry.registered import MODEL, lose_weights, register, results, stored
from tests.tiny import save_checkpoint
from tests.tracking.test_server import server  # noqa: F401 -- a fixture


def test_whole_weights_come_from_registry(registry: Registry, root: Path, tmp_path: Path) -> None:
    version = register(registry, whole=True)
    names = {path.name for path in (root / MODEL).iterdir()}
    lose_weights(root)

    folder = registry.fetch(version, tmp_path / "fetched")

    assert model_digest(folder) == version.digest
    assert {path.name for path in folder.iterdir()} == names


def test_weights_by_reference_come_from_cache(registry: Registry, root: Path, tmp_path: Path) -> None:
    version = register(registry)
    shutil.rmtree(root / MODEL)

    assert model_digest(registry.fetch(version, tmp_path / "fetched")) == version.digest


def test_weights_by_reference_come_from_checkout(registry: Registry, root: Path, tmp_path: Path) -> None:
    version = register(registry)
    shutil.rmtree(root / ".dvc/cache")

    assert model_digest(registry.fetch(version, tmp_path / "fetched")) == version.digest


def test_weights_by_reference_come_from_remote(registry: Registry, root: Path, tmp_path: Path) -> None:
    version = register(registry)
    shutil.move(root / ".dvc/cache", tmp_path / "remote")
    shutil.rmtree(root / MODEL)
    (root / ".dvc/config").write_text(
        f"['remote \"gone\"']\n    url = {tmp_path}/nothing\n['remote \"team\"']\n    url = {tmp_path}/remote\n    verify = true\n"
    )

    assert model_digest(registry.fetch(version, tmp_path / "fetched")) == version.digest


def test_missing_weights_are_named(registry: Registry, root: Path, tmp_path: Path) -> None:
    version = register(registry)
    lose_weights(root)

    with pytest.raises(UserError) as caught:
        registry.fetch(version, tmp_path / "fetched")
    for words in ("mm-policy/1", version.digest[:12], version.tags["dvc.model"], "artifacts/align/model", "dvc pull"):
        assert words in str(caught.value)
    assert not (tmp_path / "fetched").exists()


def test_changed_weights_are_refused(registry: Registry, root: Path, tmp_path: Path) -> None:
    version = register(registry, whole=True)
    (weights,) = stored(root, version).rglob("model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    with pytest.raises(StageFault, match=f"not the registered {version.digest[:12]}"):
        registry.fetch(version, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_fetch_overwrites_no_other_folder(registry: Registry, root: Path, tmp_path: Path, tiny_base: Path) -> None:
    version = register(registry)
    shutil.copytree(tiny_base, tmp_path / "other")

    assert registry.fetch(version, root / MODEL) == root / MODEL
    with pytest.raises(UserError, match="exists, with other files than mm-policy/1"):
        registry.fetch(version, tmp_path / "other")
    assert model_digest(tmp_path / "other") == model_digest(tiny_base)


def test_upload_makes_new_version_with_same_record(registry: Registry, root: Path, tmp_path: Path) -> None:
    reference = register(registry, tags={"mmalign.verdict": "refused"})
    registry.store_results(reference, "held-out-1", results(tmp_path))
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace("max_frames: 8", "max_frames: 4"))

    whole = registry.upload(reference)

    assert whole.whole
    assert (whole.number, whole.tags[MADE_WHOLE_FROM], whole.digest) == (2, "1", reference.digest)
    same = ("mmalign.verdict", "dvc.model", "mmalign.serving", "mmalign.git_sha")
    assert [whole.tags[tag] for tag in same] == [reference.tags[tag] for tag in same]
    assert registry.results(whole, "held-out-1", tmp_path / "back.parquet") is not None
    assert len(registry.load(whole).predict(registry.load(whole).input_example)) == 2
    assert registry.upload(reference) == whole
    assert registry.upload(whole) == whole


def test_large_weights_are_linked_from_cache(registry: Registry, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "LINKED_ABOVE_BYTES", 10_000)
    files = objects.cached_files(Checkout(root), register(registry).tags["dvc.model"])
    assert files is not None
    cached = files["model.safetensors"]
    shared_before = cached.stat().st_nlink

    version = register(registry, whole=True)

    (weights,) = stored(root, version).rglob("model.safetensors")
    if shared_before == cached.stat().st_nlink:
        pytest.skip("this file system makes reflinks, which can't be told from copies")
    assert weights.samefile(cached)
    assert not weights.samefile(root / MODEL / "model.safetensors")
    shutil.rmtree(root / ".dvc/cache")
    assert model_digest(registry.fetch(version, tmp_path / "fetched")) == version.digest


def test_lost_files_of_whole_version_come_back_from_cache(registry: Registry, root: Path) -> None:
    version = register(registry, whole=True)
    registry.set_alias("mm-policy", CHAMPION, version.number)
    assert registry.without_files("mm-policy") == []
    shutil.rmtree(root / "mlruns/models")
    shutil.rmtree(root / MODEL)

    (lost,) = registry.without_files("mm-policy")
    assert lost.number == version.number
    finding = registered_models(Checkout(root))
    assert (finding.state, finding.text) == ("problem", "the registry lost the files of mm-policy/1 (champion)")
    registry.put_back(lost)

    assert registered_models(Checkout(root)).state == "ok"
    assert model_digest(stored(root, version) / "artifacts" / WEIGHTS) == version.digest
    assert registry.load(version) is not None


def test_deleted_logged_model_is_named_with_its_cure(registry: Registry, root: Path, tmp_path: Path) -> None:
    version = register(registry, whole=True)
    registry.set_alias("mm-policy", CHAMPION, version.number)
    with open_store(Checkout(root)) as (client, _):
        client.delete_logged_model(version.model_id)

    for use in (
        lambda: registry.without_files("mm-policy"),
        lambda: registry.load(version),
        lambda: registry.fetch(version, tmp_path / "fetched"),
        lambda: registry.results(version, "key", tmp_path / "table"),
    ):
        with pytest.raises(StageFault, match=r"holds version 1 of mm-policy, was deleted in MLflow: restore .*`mmalign restore`"):
            use()


def test_damaged_package_counts_as_lost(registry: Registry, root: Path) -> None:
    version = register(registry, whole=True)
    registry.set_alias("mm-policy", CHAMPION, version.number)
    for weights in stored(root, version).rglob("*.safetensors"):
        weights.unlink()

    (lost,) = registry.without_files("mm-policy")
    registry.put_back(lost)

    assert registry.without_files("mm-policy") == []


def test_other_weights_are_not_put_back(registry: Registry, root: Path) -> None:
    version = register(registry, whole=True)
    registry.set_alias("mm-policy", CHAMPION, version.number)
    shutil.rmtree(root / "mlruns/models")
    lose_weights(root)
    save_checkpoint(root / MODEL, seed=9)

    with pytest.raises(UserError, match="neither in DVC's cache"):
        registry.put_back(registry.version("mm-policy", 1))
    assert not stored(root, version).exists()


def test_version_without_alias_or_by_reference_is_not_missed(registry: Registry, root: Path) -> None:
    register(registry, whole=True)
    reference = register(registry)
    registry.set_alias("mm-policy", CHALLENGER, reference.number)
    shutil.rmtree(root / "mlruns/models")

    assert registry.without_files("mm-policy") == []
