"""The model registry: versions of `mm-policy` and `mm-reward`, their aliases, weights and results, in the store that runs are recorded in.

- A version is *whole* (weights, code and processor in the registry: it can be served alone) or *by reference* (an external model of MLflow:
  digest, DVC path and hash; a refused candidate of any size costs nothing). Either is backed by one logged model of MLflow.
- A version appears last, when all that belongs to it is stored: a kill before leaves an orphan, which `retain` clears away.
- MLflow deletes rows and leaves files: `retain` deletes both.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from components.config.settings import Settings, load_settings
from components.errors import StageFault, UserError
from components.families.digests import model_digest
from components.processes.marks import checkout_mark
from components.registry.packaging import WEIGHTS, ModelName, build, serving_settings
from components.registry.store import (
    as_global_store,
    check_weights,
    create_model,
    describe_external,
    holds_weights,
    local_folder,
    make_registered_model,
    open_store,
    results_file,
)
from components.registry.versions import (
    CHAMPION,
    CHECKOUT,
    DIGEST,
    DVC_MODEL,
    DVC_PATH,
    MADE_WHOLE_FROM,
    MODEL_NAME,
    NAMES,
    REFERENCE,
    RESULTS,
    RUN,
    SERVING,
    WEIGHTS_TAG,
    WHOLE,
    Version,
    aliases_of,
    those_there_are,
    version_of,
)
from components.storage.objects import bring_into_cache, cached_files, put_file
from components.tracking.provenance import LOCK, data_version, git_state, read_yaml
from components.tracking.recorder import PENDING, find_pending
from components.tracking.store import ENVIRONMENT, tracking_uri


class Registry:
    """The registry that belongs to the checkout at `root`: its own database, or the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def versions(self, name: ModelName) -> list[Version]:
        """All versions of a model, newest first."""
        with open_store(self.root) as (client, _):
            aliases = aliases_of(client, name)
            found: list[Any] = []
            token: str | None = None
            while True:
                page = client.search_model_versions(f"name = '{name}'", page_token=token)
                found += page
                token = page.token
                if not token:
                    break
            return sorted((version_of(entry, aliases) for entry in found), key=lambda version: -version.number)

    def version(self, name: ModelName, number: int) -> Version:
        """One version. UserError where there is none, naming those there are."""
        known = self.versions(name)
        for version in known:
            if version.number == number:
                return version
        raise UserError(f"{name} has no version {number}; {those_there_are(name, known)}")

    def at(self, name: ModelName, alias: str) -> Version | None:
        """The version that an alias points to, None where it points to none."""
        return next((version for version in self.versions(name) if alias in version.aliases), None)

    def resolve(self, reference: str) -> Version:
        """The version that `mm-policy@champion` or `mm-policy/3` names. UserError, naming what there is, where it names none."""
        matched = re.fullmatch(r"(?:models:/)?([\w-]+)(?:@([\w-]+)|/(\d+))", reference.strip())
        name = next((name for name in NAMES if matched and matched[1] == name), None)
        if matched is None or name is None:
            raise UserError(
                f"'{reference}' names no version: write {NAMES[0]}@{CHAMPION} or {NAMES[0]}/3; the models are {', '.join(NAMES)}"
            )
        if matched[3]:
            return self.version(name, int(matched[3]))
        known = self.versions(name)
        for version in known:
            if matched[2] in version.aliases:
                return version
        raise UserError(f"{name} has no alias '{matched[2]}'; {those_there_are(name, known)}")

    def register(self, name: ModelName, folder: Path, *, whole: bool, run_id: str | None, tags: Mapping[str, str]) -> Version:
        """Register the checkpoint in `folder`, with the tags of where it comes from and `tags`, which go before those.

        `run_id` is the run that it belongs to, or None. A whole version holds everything that it takes to serve it.
        """
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} holds no model to register as {name}: run the stage that writes it")
        settings = load_settings(self.root / "params.yaml")
        digest = model_digest(folder)
        where = self._provenance(folder, settings)
        own = {**where, DIGEST: digest, SERVING: json.dumps(serving_settings(name, settings), sort_keys=True)}
        return self._register(name, folder, whole=whole, run_id=run_id, tags={**own, **tags, DIGEST: digest})

    def fetch(self, version: Version, target: Path) -> Path:
        """Put the version's weights and processor files into the folder `target` and give it back, checked against the digest.

        They come from the registry for a whole version, else from DVC's cache, the checkout or a DVC remote. UserError where none has them;
        StageFault where what they have is not what was registered. A `target` that holds them already is left as it is.
        """
        if target.is_dir() and any(target.iterdir()):
            if model_digest(target) == version.digest:
                return target
            raise UserError(f"{target} is there and holds something else than {version}: name another folder, or remove it")
        with self._scratch() as scratch:
            fetched = scratch / "model"
            if version.whole:
                self._download(version, WEIGHTS, fetched)
            else:
                self._fetch_reference(version, fetched)
            digest = model_digest(fetched)
            if digest != version.digest:
                raise StageFault(
                    f"the weights of {version} have the digest {digest[:12]}, but {version.digest[:12]} was registered: don't use them"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                target.rmdir()  # empty, as was seen above
            shutil.move(fetched, target)
        return target

    def upload(self, version: Version) -> Version:
        """A by-reference version made whole: a new version with the same tags and results, or the one that was made of it before."""
        if version.whole:
            return version
        for other in self.versions(version.name):
            if other.whole and other.tags.get(MADE_WHOLE_FROM) == str(version.number) and other.digest == version.digest:
                return other
        with self._scratch() as scratch:
            folder = self.fetch(version, scratch / "fetched")
            tags = {**version.tags, MADE_WHOLE_FROM: str(version.number)}
            return self._register(version.name, folder, whole=True, run_id=version.run_id, tags=tags, results_of=version)

    def load(self, version: Version) -> Any:
        """The version as MLflow's pyfunc model, never from a pickle. UserError where its weights are not in the registry."""
        if not version.whole:
            raise UserError(
                f"{version} is registered by reference, without its weights: `mmalign promote {version.name} {version.number}` stores them"
            )
        os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = ENVIRONMENT["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"]
        with open_store(self.root) as (client, _):
            local = local_folder(client.get_logged_model(version.model_id).artifact_location)
        import mlflow

        with self._scratch() as scratch:
            folder = local if local is not None else self._download(version, "", scratch / "package")
            return mlflow.pyfunc.load_model(str(folder))

    def set_alias(self, name: ModelName, alias: str, number: int) -> None:
        """Point an alias to a version; it leaves the version that it pointed to."""
        with self._lock(), open_store(self.root) as (client, _):  # so that no retention deletes the version in between
            self.version(name, number)
            client.set_registered_model_alias(name, alias, str(number))

    def drop_alias(self, name: ModelName, alias: str) -> None:
        """Remove an alias; one that is not there is no error."""
        if self.at(name, alias) is not None:
            with open_store(self.root) as (client, _):
                client.delete_registered_model_alias(name, alias)

    def tag(self, name: ModelName, number: int, tags: Mapping[str, str | None]) -> None:
        """Set tags of a version; None removes one."""
        known = self.version(name, number).tags
        with open_store(self.root) as (client, _):
            for key, value in tags.items():
                if value is not None:
                    client.set_model_version_tag(name, str(number), key, value)
                elif key in known:
                    client.delete_model_version_tag(name, str(number), key)

    def store_results(self, version: Version, key: str, table: Path) -> None:
        """Keep a table of per-query results with the version, under a key that says what they were computed from."""
        with self._scratch() as scratch:
            named = scratch / results_file(key)
            shutil.copyfile(table, named)
            with self._artifacts(version.model_id) as artifacts:
                artifacts.log_artifact(str(named), RESULTS)

    def results(self, version: Version, key: str, target: Path) -> Path | None:
        """Copy the results under `key` to the file `target` and give it back; None where the version has none."""
        stored = f"{RESULTS}/{results_file(key)}"
        with self._artifacts(version.model_id) as artifacts:
            if stored not in {item.path for item in artifacts.list_artifacts(RESULTS)}:
                return None
        with self._scratch() as scratch:
            fetched = self._download(version, stored, scratch / "table")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(fetched, target)
        return target

    def retain(self, name: ModelName, keep: int, *, spare: Collection[int] = ()) -> list[str]:
        """Delete the oldest versions until `keep` are left, and their stored files; a sentence says what was removed.

        Versions with an alias stay, whatever their number, and so do those in `spare`. What killed registrations of this checkout left goes too.
        """
        if keep < 1:
            raise UserError(f"registry.keep is {keep}: keep at least 1 version")
        removed = []
        with self._lock():
            known = self.versions(name)
            removable = [version for version in known[::-1] if not version.aliases and version.number not in spare]
            for version in removable[: max(0, len(known) - keep)]:
                with open_store(self.root) as (client, _):
                    client.delete_model_version(name, str(version.number))  # first, so that no version ever lacks its files
                size = self._remove_model(version.model_id)
                freed = f", {size / 1e6:.1f} MB" if version.whole and size is not None else ""
                verdict = f", {version.tags['mmalign.verdict']}" if "mmalign.verdict" in version.tags else ""
                removed.append(f"removed {version} (digest {version.digest[:12]}{verdict}{freed}): registry.keep is {keep}")
            for model_id in self._orphans(name):
                self._remove_model(model_id)
                removed.append(f"removed what a registration of {name} that was cut short had left ({model_id})")
        return removed

    def _register(
        self, name: ModelName, folder: Path, *, whole: bool, run_id: str | None, tags: Mapping[str, str], results_of: Version | None = None
    ) -> Version:
        tags = {**tags, WEIGHTS_TAG: WHOLE if whole else REFERENCE, CHECKOUT: checkout_mark(self.root)}
        with self._lock(), open_store(self.root) as (client, experiment), self._scratch() as scratch:
            make_registered_model(client, name)
            run_id, tags = self._settle_run(client, experiment, run_id, tags)
            model_id = create_model(client, experiment, name, run_id, tags, whole=whole)
            package = scratch / "package"
            if whole:
                cached = (cached_files(self.root, tags[DVC_MODEL]) if self._in_dvc(tags) else None) or {}
                serving = json.loads(tags[SERVING])
                build(name, folder, package, serving, cached=cached, model_id=model_id, run_id=run_id)
                if cached:
                    check_weights(package / WEIGHTS, tags[DIGEST])
            else:
                describe_external(client.get_logged_model(model_id), package)
            if results_of is not None:
                with self._artifacts(results_of.model_id) as artifacts:
                    for item in artifacts.list_artifacts(RESULTS):
                        self._download(results_of, item.path, package / item.path)
            self._store_package(client, model_id, package)
            client.finalize_logged_model(model_id, "READY")
            with as_global_store(tracking_uri(self.root)):  # MLflow looks the logged model up in the process-wide store
                made = client.create_model_version(name, f"models:/{model_id}", run_id, tags=dict(tags), model_id=model_id)
            return version_of(made, {})

    def _settle_run(self, client: Any, experiment: str, run_id: str | None, tags: Mapping[str, str]) -> tuple[str | None, dict[str, str]]:
        """MLflow's id of the run, where it has one by now; the name it waits under is kept as a tag."""
        if run_id is None:
            return None, dict(tags)
        known = find_pending(client, experiment, run_id) if run_id.startswith(PENDING) else run_id
        return known, {**tags, RUN: known or run_id}

    def _provenance(self, folder: Path, settings: Settings) -> dict[str, str]:
        git = git_state(self.root)
        tags = {"mmalign.dirty": str(git.dirty).lower()}
        if git.sha is not None:
            tags["mmalign.git_sha"] = git.sha
        version = data_version(self.root)
        if version is not None:
            tags["dvc.data"] = version
        base = self.root / settings.model.base
        if (base / "config.json").is_file():
            tags["mmalign.base_digest"] = model_digest(base)
        if folder.resolve().is_relative_to(self.root):
            path = folder.resolve().relative_to(self.root).as_posix()
            tags[DVC_PATH] = path
            for stage in read_yaml(self.root / LOCK).get("stages", {}).values():
                for out in stage.get("outs", []):
                    if out["path"] == path and "md5" in out:
                        tags[DVC_MODEL] = out["md5"]
        return tags

    def _in_dvc(self, tags: Mapping[str, str]) -> bool:
        return DVC_MODEL in tags and (self.root / ".dvc").is_dir()

    def _fetch_reference(self, version: Version, target: Path) -> None:
        value, path = version.tags.get(DVC_MODEL), version.tags.get(DVC_PATH)
        in_dvc = self._in_dvc(version.tags)
        files = cached_files(self.root, value) if in_dvc and value else None
        if files is None and path and holds_weights(self.root / path, version.digest):
            folder = self.root / path
            files = {item.relative_to(folder).as_posix(): item for item in folder.rglob("*") if item.is_file()}
            for name, source in files.items():
                put_file(source, target / name, link=False)  # the stage may write into its own
            return
        if files is None and in_dvc and value:
            files = bring_into_cache(self.root, value)
        if files is None:
            hashed = f"DVC's hash {value}" if value else "no hash of DVC's"
            raise UserError(
                f"the weights of {version} (digest {version.digest[:12]}, {hashed}) are neither in DVC's cache, nor in "
                f"{path or 'the checkout'}, nor in a remote: fetch them where they are (`dvc pull`), or train them again "
                f"(`mmalign lineage {version}` prints how)"
            )
        for name, source in files.items():
            put_file(source, target / name)

    def _store_package(self, client: Any, model_id: str, package: Path) -> None:
        """Put a package where MLflow keeps the model's artifacts: moved on this machine, uploaded elsewhere."""
        folder = local_folder(client.get_logged_model(model_id).artifact_location)
        if folder is not None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(package, folder)
            return
        with self._artifacts(model_id) as artifacts:
            artifacts.log_artifacts(str(package))

    def _download(self, version: Version, path: str, target: Path) -> Path:
        """A copy of a folder or file among a version's artifacts, at `target`; large files are linked where they lie on this machine."""
        with open_store(self.root) as (client, _):
            local = local_folder(client.get_logged_model(version.model_id).artifact_location)
        if local is not None:
            source = local / path
            if not source.exists():
                raise UserError(f"{source}, which belongs to {version}, is gone: the registry's files were moved or deleted")
            files = [source] if source.is_file() else [item for item in source.rglob("*") if item.is_file()]
            for item in files:
                put_file(item, target / item.relative_to(source) if item != source else target)
            return target
        with self._artifacts(version.model_id) as artifacts, self._scratch() as scratch:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(artifacts.download_artifacts(path, str(scratch)), target)
        return target

    def _remove_model(self, model_id: str) -> int | None:
        """Delete a logged model and its files; the bytes that they had, where they lay on this machine."""
        from mlflow.exceptions import MlflowException

        with open_store(self.root) as (client, _):
            try:
                location = client.get_logged_model(model_id).artifact_location
            except MlflowException:  # deleted by hand, or by another checkout's retention
                return None
            folder = local_folder(location)
            size = None
            if folder is not None:
                size = sum(item.stat().st_size for item in folder.rglob("*") if item.is_file())
                shutil.rmtree(folder.parent if folder.parent.name == model_id else folder, ignore_errors=True)
            else:
                with self._artifacts(model_id) as artifacts:
                    artifacts.delete_artifacts()
            client.delete_logged_model(model_id)
            return size

    def _orphans(self, name: ModelName) -> list[str]:
        """Logged models that registrations of this checkout made and no version uses; none is being made, since the lock is held."""
        used = {version.model_id for version in self.versions(name)}
        with open_store(self.root) as (client, experiment):
            ours = f"tags.`{MODEL_NAME}` = '{name}' AND tags.`{CHECKOUT}` = '{checkout_mark(self.root)}'"
            found = [str(model.model_id) for model in client.search_logged_models([experiment], ours)]
        return [model_id for model_id in found if model_id not in used]

    @contextmanager
    def _artifacts(self, model_id: str) -> Iterator[Any]:
        """MLflow's access to the files of a logged model."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with open_store(self.root) as (client, _):
            uri = tracking_uri(self.root)
            yield get_artifact_repository(client.get_logged_model(model_id).artifact_location, tracking_uri=uri, registry_uri=uri)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder on the registry's own file system where it lies in the checkout, so that moving and linking cost nothing."""
        parent = self.root / ".mmalign" / "registry"
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            yield Path(folder)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        parent = self.root / ".mmalign" / "registry"
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / "registry.lock", is_singleton=True):
            yield
