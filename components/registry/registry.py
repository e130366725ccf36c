"""The model registry: versions of `mm-policy` and `mm-reward`, their aliases, weights and results, in the store of the runs.

- A version is *whole* or *by reference*. A whole version has weights, code and processor in the registry, so MLflow can serve it without
  the checkout. A version by reference is an external model of MLflow with digest, DVC path and hash: a refused model takes no space.
- One logged model of MLflow backs each version. The version appears last, after its files: a kill before leaves an orphan, which `retain`
  removes.
- MLflow deletes rows and leaves files: `retain` deletes both.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import StageFault, UserError
from components.families.digests import is_checkpoint, model_digest
from components.processes.marks import checkout_mark
from components.registry.drift import split_hashes
from components.registry.files import ModelFiles, in_dvc
from components.registry.packaging import WEIGHTS, ModelName, build, serving_settings
from components.registry.store import (
    as_global_store,
    check_weights,
    create_model,
    describe_external,
    local_folder,
    logged_model,
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
    LAST_CHAMPION,
    LOOK_TAG,
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
    describe_versions,
    version_of,
)
from components.storage.objects import cached_files
from components.tracking.provenance import LOCK, data_version, git_state, read_yaml
from components.tracking.recorder import PENDING, find_pending
from components.tracking.store import ENVIRONMENT, tracking_uri

LOOK_CHARACTERS = 8  # of a digest in a tag of looks: MLflow's limit of 5,000 holds 555 of them


class Registry:
    """The registry that belongs to `checkout`: its own database, or the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout.absolute()
        self._files = ModelFiles(self.checkout)

    def versions(self, name: ModelName) -> list[Version]:
        """All versions of a model, newest first."""
        with open_store(self.checkout) as (client, _):
            aliases = aliases_of(client, name)
            entries = _search(client, f"name = '{name}'")
            return sorted((version_of(entry, aliases) for entry in entries), key=lambda version: -version.number)

    def version(self, name: ModelName, number: int) -> Version:
        """One version. UserError, with the existing versions, where it does not exist."""
        versions = self.versions(name)
        for version in versions:
            if version.number == number:
                return version
        raise UserError(f"{name} has no version {number}; {describe_versions(name, versions)}")

    def at(self, name: ModelName, alias: str) -> Version | None:
        """The version of an alias, None without that alias."""
        return next((version for version in self.versions(name) if alias in version.aliases), None)

    def last_champion(self, name: ModelName) -> int | None:
        """The number of the version that was last made champion, as the registered model's tag keeps it; None without one."""
        from mlflow.exceptions import MlflowException

        with open_store(self.checkout) as (client, _):
            try:
                number = client.get_registered_model(name).tags.get(LAST_CHAMPION, "")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
        return int(number) if number.isdecimal() else None

    def note_champion(self, version: Version) -> None:
        """Keep the champion's number with the registered model, where it outlives the version, and with its digest at the experiment, where it
        outlives the registered model."""
        with open_store(self.checkout) as (client, experiment):
            client.set_registered_model_tag(version.name, LAST_CHAMPION, str(version.number))
            client.set_experiment_tag(experiment, f"{LAST_CHAMPION}.{version.name}", f"{version.number} {version.digest}")

    def champion_of_experiment(self, name: ModelName) -> tuple[int, str] | None:
        """Number and digest of the version that was last made champion, by the experiment's tag; None without one."""
        with open_store(self.checkout) as (client, experiment):
            number, _, digest = client.get_experiment(experiment).tags.get(f"{LAST_CHAMPION}.{name}", "").partition(" ")
        return (int(number), digest) if number.isdecimal() else None

    def count_look(self, name: ModelName, heldout: str, digest: str) -> int:
        """The number of this digest's look at the held-out queries, from 1. A digest that was judged on them before has its look already."""
        from mlflow.exceptions import MlflowException

        tag = f"{LOOK_TAG}.{heldout[:LOOK_CHARACTERS]}"
        with open_store(self.checkout) as (client, _):
            try:
                judged = client.get_registered_model(name).tags.get(tag, "").split()
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                make_registered_model(client, name)
                judged = []
            mark = digest[:LOOK_CHARACTERS]
            if mark not in judged:
                judged.append(mark)
                client.set_registered_model_tag(name, tag, " ".join(judged))
        return int(judged.index(mark)) + 1

    def resolve(self, reference: str) -> Version:
        """The version that `mm-policy@champion` or `mm-policy/3` names. UserError, with the existing versions, where it names none."""
        matched = re.fullmatch(r"(?:models:/)?([\w-]+)(?:@([\w-]+)|/(\d+))", reference.strip())
        name = next((name for name in NAMES if matched and matched[1] == name), None)
        if matched is None or name is None:
            raise UserError(
                f"'{reference}' names no version: write {NAMES[0]}@{CHAMPION} or {NAMES[0]}/3; the models are {', '.join(NAMES)}"
            )
        if matched[3]:
            return self.version(name, int(matched[3]))
        versions = self.versions(name)
        for version in versions:
            if matched[2] in version.aliases:
                return version
        raise UserError(f"{name} has no alias '{matched[2]}'; {describe_versions(name, versions)}")

    def register(self, name: ModelName, folder: Path, *, whole: bool, run_id: str | None, tags: Mapping[str, str]) -> Version:
        """Register the checkpoint in `folder` with the tags of its provenance and with `tags`, which take precedence.

        `run_id` is the model's run, or None. A whole version contains everything that a server needs.
        """
        if not is_checkpoint(folder):
            raise UserError(f"{folder} contains no model to register as {name}: run the stage that writes it")
        settings = self.checkout.settings()
        digest = model_digest(folder)
        where = self._provenance(folder, settings)
        own = {**where, DIGEST: digest, SERVING: json.dumps(serving_settings(name, settings), sort_keys=True)}
        return self._register(name, folder, whole=whole, run_id=run_id, tags={**own, **tags, DIGEST: digest})

    def fetch(self, version: Version, target: Path) -> Path:
        """Put the version's weights and processor files into the folder `target`, check them against the digest, and return `target`.

        They come from the registry for a whole version, else from DVC's cache, the checkout or a DVC remote. UserError where none has them;
        StageFault where their digest is not the registered one. A `target` that contains them already stays as it is.
        """
        if target.is_dir() and any(target.iterdir()):
            if model_digest(target) == version.digest:
                return target
            raise UserError(f"{target} exists, with other files than {version}: name another folder, or remove it")
        with self._files.scratch() as scratch:
            fetched = scratch / "model"
            if version.whole:
                self._files.download(version, WEIGHTS, fetched)
            else:
                self._files.fetch_reference(version, fetched)
            digest = model_digest(fetched)
            if digest != version.digest:
                raise StageFault(
                    f"the weights of {version} have the digest {digest[:12]}, not the registered {version.digest[:12]}: don't use them"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                target.rmdir()  # empty, as checked above
            shutil.move(fetched, target)
        return target

    def upload(self, version: Version) -> Version:
        """Make a version by reference whole: returns a new version with the same tags and results, or an earlier upload of it."""
        if version.whole:
            return version
        for other in self.versions(version.name):
            if other.whole and other.tags.get(MADE_WHOLE_FROM) == str(version.number) and other.digest == version.digest:
                return other
        with self._files.scratch() as scratch:
            folder = self.fetch(version, scratch / "fetched")
            tags = {**version.tags, MADE_WHOLE_FROM: str(version.number)}
            return self._register(version.name, folder, whole=True, run_id=version.run_id, tags=tags, results_of=version)

    def without_files(self, name: ModelName) -> list[Version]:
        """The whole versions with an alias whose files somebody removed from the registry's store."""
        return [version for version in self.versions(name) if version.whole and version.aliases and self._files.missing(version)]

    def put_back(self, version: Version) -> None:
        """Make the package of a whole version anew, of the weights in DVC's cache, the checkout or a DVC remote, checked by their digest.

        UserError where none has them; StageFault where their digest is another. The stored results of a version do not come back.
        """
        with self._lock(), open_store(self.checkout) as (client, _), self._files.scratch() as scratch:
            model, package = scratch / "model", scratch / "package"
            self._files.fetch_reference(version, model)
            check_weights(model, version.digest)
            self._package(version.name, model, package, version.tags, version.model_id, version.run_id)
            self._files.store(client, version.model_id, package)

    def load(self, version: Version) -> Any:
        """The version as MLflow's pyfunc model, never from a pickle. UserError where the registry has no weights of it."""
        if not version.whole:
            raise UserError(
                f"{version} is registered by reference, without its weights: `mmalign promote {version.name} {version.number}` stores them"
            )
        os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = ENVIRONMENT["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"]
        with open_store(self.checkout) as (client, _):
            local = local_folder(logged_model(client, version.model_id).artifact_location)
        import mlflow

        with self._files.scratch() as scratch:
            folder = local if local is not None else self._files.download(version, "", scratch / "package")
            return mlflow.pyfunc.load_model(str(folder))

    def set_alias(self, name: ModelName, alias: str, number: int) -> None:
        """Point an alias to a version, away from the earlier one."""
        with self._lock(), open_store(self.checkout) as (client, _):  # so that no retention deletes the version in between
            self.version(name, number)
            client.set_registered_model_alias(name, alias, str(number))

    def drop_alias(self, name: ModelName, alias: str) -> None:
        """Remove an alias, if it exists."""
        if self.at(name, alias) is not None:
            with open_store(self.checkout) as (client, _):
                client.delete_registered_model_alias(name, alias)

    def tag(self, name: ModelName, number: int, tags: Mapping[str, str | None]) -> None:
        """Set tags of a version; None removes one."""
        existing = self.version(name, number).tags
        with open_store(self.checkout) as (client, _):
            for key, value in tags.items():
                if value is not None:
                    client.set_model_version_tag(name, str(number), key, value)
                elif key in existing:
                    client.delete_model_version_tag(name, str(number), key)

    def store_results(self, version: Version, key: str, table: Path) -> None:
        """Store a table of per-query results with the version, under the key of their inputs (`results_key`)."""
        with self._files.scratch() as scratch:
            named = scratch / results_file(key)
            shutil.copyfile(table, named)
            with self._files.artifacts(version.model_id) as artifacts:
                artifacts.log_artifact(str(named), RESULTS)

    def results(self, version: Version, key: str, target: Path) -> Path | None:
        """Copy the results under `key` to the file `target` and return it; None where the version has none."""
        stored = f"{RESULTS}/{results_file(key)}"
        with self._files.artifacts(version.model_id) as artifacts:
            if stored not in {item.path for item in artifacts.list_artifacts(RESULTS)}:
                return None
        with self._files.scratch() as scratch:
            fetched = self._files.download(version, stored, scratch / "table")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(fetched, target)
        return target

    def retain(self, name: ModelName, keep: int, *, spare: Collection[int] = ()) -> list[str]:
        """Delete the oldest versions with their files until `keep` are left; returns a sentence on each removal.

        Versions with an alias and those in `spare` stay. Leftovers of this checkout's killed registrations are removed too.
        """
        if keep < 1:
            raise UserError(f"registry.keep is {keep}: keep at least 1 version")
        removed = []
        with self._lock():
            versions = self.versions(name)
            removable = [version for version in versions[::-1] if not version.aliases and version.number not in spare]
            for version in removable[: max(0, len(versions) - keep)]:
                with open_store(self.checkout) as (client, _):
                    client.delete_model_version(name, str(version.number))  # first, so that no version ever lacks its files
                size = self._files.remove(version.model_id)
                freed = f", {size / 1e6:.1f} MB" if version.whole and size is not None else ""
                verdict = f", {version.tags['mmalign.verdict']}" if "mmalign.verdict" in version.tags else ""
                removed.append(f"removed {version} (digest {version.digest[:12]}{verdict}{freed}): registry.keep is {keep}")
            for model_id in self._orphans(name):
                self._files.remove(model_id)
                removed.append(f"removed the leftovers of a killed registration of {name} ({model_id})")
        return removed

    def _register(
        self, name: ModelName, folder: Path, *, whole: bool, run_id: str | None, tags: Mapping[str, str], results_of: Version | None = None
    ) -> Version:
        tags = {**tags, WEIGHTS_TAG: WHOLE if whole else REFERENCE, CHECKOUT: checkout_mark(self.checkout)}
        with self._lock(), open_store(self.checkout) as (client, experiment), self._files.scratch() as scratch:
            make_registered_model(client, name)
            run_id, tags = self._resolve_run(client, experiment, run_id, tags)
            model_id = create_model(client, experiment, name, run_id, tags, whole=whole)
            package = scratch / "package"
            if whole:
                self._package(name, folder, package, tags, model_id, run_id)
            else:
                describe_external(client.get_logged_model(model_id), package)
            if results_of is not None:
                with self._files.artifacts(results_of.model_id) as artifacts:
                    for item in artifacts.list_artifacts(RESULTS):
                        self._files.download(results_of, item.path, package / item.path)
            self._files.store(client, model_id, package)
            client.finalize_logged_model(model_id, "READY")
            with as_global_store(tracking_uri(self.checkout)):  # MLflow looks the logged model up in the process-wide store
                made = client.create_model_version(name, f"models:/{model_id}", run_id, tags=dict(tags), model_id=model_id)
            return version_of(made, {})

    def _package(self, name: ModelName, folder: Path, package: Path, tags: Mapping[str, str], model_id: str, run_id: str | None) -> None:
        """Make a whole version's package of the model in `folder`, with the weights linked from DVC's cache where it has them."""
        cached = (cached_files(self.checkout, tags[DVC_MODEL]) if in_dvc(self.checkout, tags) else None) or {}
        build(name, folder, package, json.loads(tags[SERVING]), cached=cached, model_id=model_id, run_id=run_id)
        if cached:
            check_weights(package / WEIGHTS, tags[DIGEST])

    def _resolve_run(self, client: Any, experiment: str, run_id: str | None, tags: Mapping[str, str]) -> tuple[str | None, dict[str, str]]:
        """MLflow's id of the run, None while its record waits to be sent; a tag has the id or the waiting run's name."""
        if run_id is None:
            return None, dict(tags)
        recorded = find_pending(client, experiment, run_id) if run_id.startswith(PENDING) else run_id
        return recorded, {**tags, RUN: recorded or run_id}

    def _provenance(self, folder: Path, settings: Settings) -> dict[str, str]:
        git = git_state(self.checkout)
        tags = {"mmalign.dirty": str(git.dirty).lower()}
        if git.sha is not None:
            tags["mmalign.git_sha"] = git.sha
        version = data_version(self.checkout)
        if version is not None:
            tags["dvc.data"] = version
        tags |= split_hashes(self.checkout)
        base = self.checkout.root / settings.model.base
        if (base / "config.json").is_file():
            tags["mmalign.base_digest"] = model_digest(base)
        if folder.resolve().is_relative_to(self.checkout.root):
            path = folder.resolve().relative_to(self.checkout.root).as_posix()
            tags[DVC_PATH] = path
            for stage in read_yaml(self.checkout.root / LOCK).get("stages", {}).values():
                for out in stage.get("outs", []):
                    if out["path"] == path and "md5" in out:
                        tags[DVC_MODEL] = out["md5"]
        return tags

    def _orphans(self, name: ModelName) -> list[str]:
        """Logged models of this checkout's registrations that no version uses. The caller's lock excludes a registration under way."""
        with open_store(self.checkout) as (client, experiment):
            used = {
                str(entry.source).removeprefix("models:/") for entry in _search(client, None)
            }  # those of a registered model that was renamed, too
            ours = f"tags.`{MODEL_NAME}` = '{name}' AND tags.`{CHECKOUT}` = '{checkout_mark(self.checkout)}'"
            logged = [str(model.model_id) for model in client.search_logged_models([experiment], ours)]
        return [model_id for model_id in logged if model_id not in used]

    @contextmanager
    def _lock(self) -> Iterator[None]:
        parent = self.checkout.state / "registry"
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / "registry.lock", is_singleton=True):
            yield


def _search(client: Any, wanted: str | None) -> list[Any]:
    """MLflow's entries of all versions that fit a filter, or of all there are."""
    entries: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(wanted, page_token=token)
        entries += page
        token = page.token
        if not token:
            return entries
