"""The files of logged models: weights, packages and results, in the registry's store or in DVC."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.errors import UserError
from components.families.digests import has_weights
from components.registry.packaging import WEIGHTS
from components.registry.store import holds_weights, local_folder, logged_model, open_store
from components.registry.versions import DVC_MODEL, DVC_PATH, Version
from components.storage.objects import bring_into_cache, cached_files, put_file
from components.tracking.store import tracking_uri

PACKAGE = "MLmodel"  # MLflow's own file of a package


def in_dvc(checkout: Checkout, tags: Mapping[str, str]) -> bool:
    """Whether DVC of this checkout may have the weights of a version with these tags."""
    return DVC_MODEL in tags and checkout.dvc.is_dir()


class ModelFiles:
    """Moves files between the checkout and the logged models of its registry."""

    def __init__(self, checkout: Checkout) -> None:
        self._checkout = checkout

    def fetch_reference(self, version: Version, target: Path) -> None:
        """Fill `target` with the files of a version by reference: from DVC's cache, the checkout or a DVC remote. UserError without them."""
        value, path = version.tags.get(DVC_MODEL), version.tags.get(DVC_PATH)
        tracked = in_dvc(self._checkout, version.tags)
        files = cached_files(self._checkout, value) if tracked and value else None
        if files is None and path and holds_weights(self._checkout.root / path, version.digest):
            folder = self._checkout.root / path
            files = {item.relative_to(folder).as_posix(): item for item in folder.rglob("*") if item.is_file()}
            for name, source in files.items():
                put_file(source, target / name, link=False)  # the stage may write into its files
            return
        if files is None and tracked and value:
            files = bring_into_cache(self._checkout, value)
        if files is None:
            hashed = f"DVC hash {value}" if value else "no DVC hash"
            raise UserError(
                f"the weights of {version} (digest {version.digest[:12]}, {hashed}) are neither in DVC's cache, nor in "
                f"{path or 'the checkout'}, nor in a remote: run `dvc pull` with the remote that has them, or train them again "
                f"(`mmalign lineage {version}` prints how)"
            )
        for name, source in files.items():
            put_file(source, target / name)

    def store(self, client: Any, model_id: str, package: Path) -> None:
        """Put a package among the model's artifacts: by a move on this machine, by an upload elsewhere."""
        folder = local_folder(logged_model(client, model_id).artifact_location)
        if folder is not None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)  # what is left of a package that lost files
            shutil.move(package, folder)
            return
        with self.artifacts(model_id) as artifacts:
            artifacts.log_artifacts(str(package))

    def missing(self, version: Version) -> bool:
        """Whether a whole version lacks its weights or its package in the registry's store."""
        with open_store(self._checkout) as (client, _):
            folder = local_folder(logged_model(client, version.model_id).artifact_location)
        if folder is not None:
            return not ((folder / PACKAGE).is_file() and has_weights(folder / WEIGHTS))
        with self.artifacts(version.model_id) as artifacts:
            present = {item.path for item in artifacts.list_artifacts()}
        return not {PACKAGE, WEIGHTS} <= present

    def download(self, version: Version, path: str, target: Path) -> Path:
        """Copy a folder or file of a version's artifacts to `target`; links large files that lie on this machine."""
        with open_store(self._checkout) as (client, _):
            local = local_folder(logged_model(client, version.model_id).artifact_location)
        if local is not None:
            source = local / path
            if not source.exists():
                raise UserError(f"{source} of {version} is missing: restore the registry's files from a backup (`mmalign restore`)")
            files = [source] if source.is_file() else [item for item in source.rglob("*") if item.is_file()]
            for item in files:
                put_file(item, target / item.relative_to(source) if item != source else target)
            return target
        with self.artifacts(version.model_id) as artifacts, self.scratch() as scratch:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(artifacts.download_artifacts(path, str(scratch)), target)
        return target

    def remove(self, model_id: str) -> int | None:
        """Delete a logged model and its files; returns their size in bytes where they lay on this machine."""
        from mlflow.exceptions import MlflowException

        with open_store(self._checkout) as (client, _):
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
                with self.artifacts(model_id) as artifacts:
                    artifacts.delete_artifacts()
            client.delete_logged_model(model_id)
            return size

    @contextmanager
    def artifacts(self, model_id: str) -> Iterator[Any]:
        """MLflow's access to the files of a logged model."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with open_store(self._checkout) as (client, _):
            uri = tracking_uri(self._checkout)
            yield get_artifact_repository(logged_model(client, model_id).artifact_location, tracking_uri=uri, registry_uri=uri)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder in the checkout: where the registry lies there too, moves and links cost nothing."""
        parent = self._checkout.state / "registry"
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            yield Path(folder)
