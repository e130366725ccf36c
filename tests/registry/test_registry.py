from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from components.checkout import Checkout
from components.errors import StageFault, UserError
from components.families.digests import model_digest
from components.registry.registry import Registry
from components.registry.versions import CHALLENGER, CHAMPION
from components.tracking import store
from components.tracking.recorder import Recorder, replay
from components.tracking.runs import open_parent
from tests.registry.registered import MODEL, lose_weights, register, results, size, stored
from tests.tiny import save_checkpoint
from tests.tracking.test_server import server  # noqa: F401 -- a fixture


def test_whole_version_has_tags_of_provenance(registry: Registry, root: Path) -> None:
    run_id = open_parent(Checkout(root), "test")

    version = registry.register("mm-policy", root / MODEL, whole=True, run_id=run_id, tags={"mmalign.verdict": "promoted"})

    sha = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    expected = {
        "mmalign.digest": model_digest(root / MODEL),
        "mmalign.git_sha": sha,
        "mmalign.dirty": "true",
        "dvc.data": "data1.dir",
        "mmalign.base_digest": model_digest(root / "data/base"),
        "mmalign.dvc_path": "artifacts/align/model",
        "mmalign.verdict": "promoted",
    }
    assert (version.name, version.number, version.whole, version.run_id, version.aliases) == ("mm-policy", 1, True, run_id, ())
    assert expected.items() <= version.tags.items()
    assert version.tags["dvc.model"].endswith(".dir")
    assert version.digest == expected["mmalign.digest"]
    assert registry.versions("mm-policy") == [version]


def test_explicit_tags_precede_derived_ones(registry: Registry) -> None:
    version = register(registry, tags={"mmalign.git_sha": "of the training", "mmalign.digest": "never"})

    assert version.tags["mmalign.git_sha"] == "of the training"
    assert version.digest != "never"


def test_version_by_reference_stores_no_weights(registry: Registry, root: Path) -> None:
    version = register(registry)

    assert not version.whole
    assert [path.name for path in stored(root, version).rglob("*") if path.is_file()] == ["MLmodel"]
    with pytest.raises(UserError, match=r"mm-policy/1 is registered by reference.*mmalign promote mm-policy 1"):
        registry.load(version)


def test_folder_without_model_is_not_registered(registry: Registry, root: Path) -> None:
    with pytest.raises(UserError, match="contains no model to register as mm-policy"):
        registry.register("mm-policy", root / "artifacts/validate", whole=False, run_id=None, tags={})

    assert registry.versions("mm-policy") == []


def test_champion_loads_by_alias_without_pickle(registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    registry.set_alias("mm-policy", CHAMPION, register(registry, whole=True).number)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri(Checkout(root)))

    model = mlflow.pyfunc.load_model("models:/mm-policy@champion")

    assert len(model.predict(model.input_example, params={"max_new_tokens": 2})) == 2


def test_pickled_model_is_refused(registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    class Pickled(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:  # noqa: ARG002
            return model_input

    version = register(registry, whole=True)
    package = stored(root, version) / "artifacts"
    shutil.rmtree(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
        mlflow.pyfunc.save_model(str(package), python_model=Pickled(), pip_requirements=[])
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")  # our loader does not ask

    with pytest.raises(mlflow.MlflowException, match="pickle is disallowed"):
        registry.load(version)


def test_versions_resolve_by_number_and_alias(registry: Registry) -> None:
    first, second = register(registry), register(registry)
    registry.set_alias("mm-policy", CHAMPION, 1)

    assert [version.number for version in registry.versions("mm-policy")] == [2, 1]
    assert registry.version("mm-policy", 2) == second
    assert registry.at("mm-policy", CHAMPION) == registry.resolve("mm-policy@champion") == registry.resolve("models:/mm-policy/1")
    assert registry.version("mm-policy", 1).aliases == ("champion",)
    assert registry.at("mm-policy", CHALLENGER) is None
    assert registry.at("mm-reward", CHAMPION) is None
    assert first.number == 1


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("mm-policy/7", "mm-policy has no version 7; there are 2, 1 (champion)"),
        ("mm-policy@best", "mm-policy has no alias 'best'; there are 2, 1 (champion)"),
        ("mm-reward/1", "mm-reward has no version 1; mm-reward has no version yet: `mmalign run` registers one"),
        ("mm-policy", "'mm-policy' names no version: write mm-policy@champion or mm-policy/3; the models are mm-policy, mm-reward"),
        ("policy/1", "'policy/1' names no version: write mm-policy@champion or mm-policy/3; the models are mm-policy, mm-reward"),
    ],
)
def test_unknown_version_lists_existing_ones(registry: Registry, reference: str, sentence: str) -> None:
    register(registry)
    register(registry)
    registry.set_alias("mm-policy", CHAMPION, 1)

    with pytest.raises(UserError) as caught:
        registry.resolve(reference)
    assert str(caught.value) == sentence


def test_alias_moves_and_is_dropped(registry: Registry) -> None:
    register(registry)
    register(registry)
    registry.set_alias("mm-policy", CHAMPION, 1)
    registry.set_alias("mm-policy", CHAMPION, 2)

    assert registry.version("mm-policy", 1).aliases == ()
    assert registry.version("mm-policy", 2).aliases == ("champion",)
    registry.drop_alias("mm-policy", CHAMPION)
    registry.drop_alias("mm-policy", CHAMPION)
    assert registry.at("mm-policy", CHAMPION) is None
    with pytest.raises(UserError, match="no version 3"):
        registry.set_alias("mm-policy", CHAMPION, 3)


def test_tags_are_set_and_removed(registry: Registry) -> None:
    register(registry, tags={"mmalign.rolled_back": "yes"})

    registry.tag("mm-policy", 1, {"mmalign.verdict": "refused", "mmalign.rolled_back": None, "never.there": None})

    tags = registry.version("mm-policy", 1).tags
    assert tags["mmalign.verdict"] == "refused"
    assert "mmalign.rolled_back" not in tags


def test_results_are_stored_by_key(registry: Registry, tmp_path: Path) -> None:
    version = register(registry)
    registry.store_results(version, "a1", results(tmp_path, right=True))
    registry.store_results(version, "b2", results(tmp_path, right=False))
    registry.store_results(version, "b2", results(tmp_path, right=True))

    assert registry.results(version, "c3", tmp_path / "none.parquet") is None
    for key in ("a1", "b2"):
        path = registry.results(version, key, tmp_path / "new" / f"{key}.parquet")
        assert path is not None
        assert pq.read_table(path).to_pylist() == [{"id": "q1", "right": True}]
    with pytest.raises(ValueError, match="can't be a key of results"):
        registry.store_results(version, "../a", results(tmp_path))


def test_fetch_leaves_no_scratch(registry: Registry, root: Path, tmp_path: Path) -> None:
    registry.fetch(register(registry, whole=True), tmp_path / "fetched")

    assert [path.name for path in (root / ".mmalign/registry").iterdir() if path.is_dir()] == []


def test_run_that_waited_for_store_gets_its_id(registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("components.tracking.recorder.reach", broken)
        run = Recorder.create(Checkout(root), "align", parent=None, tags={})
        run.end("FINISHED")
    store._failures.clear()  # the client does not retry a failed store for a minute
    early = registry.register("mm-policy", root / MODEL, whole=False, run_id=run.run_id, tags={})
    replay(Checkout(root))

    late = registry.register("mm-policy", root / MODEL, whole=False, run_id=run.run_id, tags={})

    assert early.run_id == run.run_id
    assert late.run_id is not None
    assert store.connect(Checkout(root))[0].get_run(late.run_id).info.run_name == "align"


def broken(root: Path) -> None:  # noqa: ARG001
    raise OSError("away")


def test_unreachable_store_is_fault_without_password(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(StageFault, match=r"the model registry at http://127.0.0.1:9 can't be reached") as caught:
        registry.versions("mm-policy")
    assert "secret" not in str(caught.value)


def test_registering_leaves_global_store_unchanged(registry: Registry) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    register(registry)

    assert mlflow.get_tracking_uri() == before
    assert "MLFLOW_TRACKING_URI" not in os.environ


@pytest.mark.slow
def test_server_stores_whole_versions_and_results(
    root: Path,
    server: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    registry = Registry(Checkout(root))
    reference = register(registry)
    registry.store_results(reference, "a1", results(tmp_path))
    whole = registry.upload(reference)
    registry.set_alias("mm-policy", CHAMPION, whole.number)
    lose_weights(root)

    assert model_digest(registry.fetch(registry.resolve("mm-policy@champion"), tmp_path / "fetched")) == whole.digest
    assert registry.results(whole, "a1", tmp_path / "back.parquet") is not None
    assert registry.results(whole, "b2", tmp_path / "none.parquet") is None
    model = registry.load(whole)
    assert len(model.predict(model.input_example, params={"max_new_tokens": 2})) == 2
    before = size(tmp_path / "server/mlruns")
    registry.drop_alias("mm-policy", CHAMPION)
    save_checkpoint(root / MODEL, seed=2)
    newest = register(registry)
    assert len(registry.retain("mm-policy", 1)) == 2
    assert registry.versions("mm-policy") == [newest]
    assert size(tmp_path / "server/mlruns") < before / 2
