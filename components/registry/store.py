"""MLflow's store for the registry: its faults as sentences, and the steps that MLflow's client does not do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.errors import StageFault
from components.families.digests import is_checkpoint, model_digest
from components.registry.packaging import ModelName
from components.registry.versions import CHECKOUT, DIGEST, MODEL_NAME
from components.tracking.store import connect, tracking_uri


@contextmanager
def open_store(checkout: Checkout) -> Iterator[tuple[Any, str]]:
    """The client and the experiment. StageFault, in a sentence, where the store can't be reached or refuses."""
    name = f"the model registry at {_without_password(tracking_uri(checkout))}"
    try:
        connection = connect(checkout)
    except Exception as error:
        raise StageFault(f"{name} can't be reached: {in_words(error)}") from error
    from mlflow.exceptions import MlflowException

    try:
        yield connection
    except MlflowException as error:
        raise StageFault(f"{name} failed: {in_words(error)}") from error


def make_registered_model(client: Any, name: ModelName) -> None:
    """Create the registered model, unless it exists."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


@contextmanager
def as_global_store(uri: str) -> Iterator[None]:
    """Set MLflow's process-wide store for the block: a database store resolves `models:/` through it, not through its client."""
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri

    name = "MLFLOW_TRACKING_URI"  # MLflow writes it too, for processes that it starts
    before = os.environ.get(name)
    try:
        with _use_tracking_uri(uri):
            yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


def in_words(error: Exception) -> str:
    """An error on one line, without the password of an address."""
    return _without_password(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def create_model(client: Any, experiment: str, name: ModelName, run_id: str | None, tags: Mapping[str, str], *, whole: bool) -> str:
    """Create the logged model that will back a version; returns its id."""
    own = {MODEL_NAME: name, DIGEST: tags[DIGEST], CHECKOUT: tags[CHECKOUT]}
    if not whole:
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

        own[MLFLOW_MODEL_IS_EXTERNAL] = "true"
    made = client.create_logged_model(experiment, name=f"{name}-{tags[DIGEST][:12]}", source_run_id=run_id, tags=own, model_type=name)
    return str(made.model_id)


def logged_model(client: Any, model_id: str) -> Any:
    """The logged model that backs a version. StageFault, which names the version and the cure, where somebody deleted it by hand."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        versions = client.search_model_versions(f"source_path = 'models:/{model_id}'")
        name = next((f"version {entry.version} of {entry.name}" for entry in versions), "a version")
        raise StageFault(
            f"the logged model {model_id}, which holds {name}, was deleted in MLflow: restore the record from a backup (`mmalign restore`), "
            f"or delete {name} on MLflow's page too, and the gate compares with the champion before it"
        ) from error


def results_file(key: str) -> str:
    """The file name of the results of a key. ValueError for a key that can't be a file name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", key):
        raise ValueError(f"'{key}' can't be a key of results, since it becomes a file name: use letters, digits, '.', '_' and '-'")
    return f"{key}.parquet"


def describe_external(model: Any, package: Path) -> None:
    """Write the MLmodel file that marks the weights as external to MLflow."""
    from mlflow.models.utils import get_external_mlflow_model_spec

    package.mkdir()
    get_external_mlflow_model_spec(model).save(str(package / "MLmodel"))


def local_folder(location: str) -> Path | None:
    """The folder of an artifact location on this machine, None for a location elsewhere."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    return Path(local_file_uri_to_path(location)) if is_local_uri(location) else None


def check_weights(folder: Path, digest: str) -> None:
    """StageFault where the weights from DVC's cache do not have the digest."""
    if model_digest(folder) != digest:
        raise StageFault(f"DVC's cache has other weights than {digest[:12]} under the hash in dvc.lock: check it with `dvc status`")


def holds_weights(folder: Path, digest: str) -> bool:
    """Whether a folder contains the model of the digest."""
    return is_checkpoint(folder) and model_digest(folder) == digest
