"""A registered version, read from MLflow's entries, with the names of its tags and aliases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from components.registry.packaging import ModelName

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous_champion", "challenger"
NAMES: tuple[ModelName, ...] = get_args(ModelName)

DIGEST = "mmalign.digest"
WEIGHTS_TAG, WHOLE, REFERENCE = "mmalign.weights", "registry", "reference"
DVC_PATH, DVC_MODEL = "mmalign.dvc_path", "dvc.model"
SERVING = "mmalign.serving"  # the run's settings for serving the model, as JSON: a later upload uses them too
MADE_WHOLE_FROM = "mmalign.made_whole_from"
SPLIT_DATA = {"train": "dvc.train", "heldout": "dvc.heldout"}  # tags with DVC's hash of a split's validated queries
RUN = "mmalign.run"  # the run's name while it waits for a store that was away, MLflow's id otherwise
CHECKOUT = "mmalign.checkout"
MODEL_NAME = "mmalign.model"  # on logged models: the registered model they belong to
RESULTS = "results"
LOOK_TAG = "mmalign.looks"  # on the registered model, with the held-out digest: the model digests judged on it, in their order
LAST_CHAMPION = "mmalign.champion"  # on the registered model: the version that was last made champion


@dataclass(frozen=True)
class Version:
    """A registered version. `digest` is the weights' digest (`model_digest`); `whole` says whether the registry has the weights."""

    name: ModelName
    number: int
    digest: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str | None
    whole: bool
    model_id: str = field(repr=False)  # the logged model with its artifacts

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


def aliases_of(client: Any, name: ModelName) -> dict[str, int]:
    """Alias to version number. A database store omits aliases from a search for versions."""
    from mlflow.exceptions import MlflowException

    try:
        return {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def version_of(entry: Any, aliases: Mapping[str, int]) -> Version:
    """The version of an MLflow entry; `aliases` maps alias to version number."""
    tags = {str(key): str(value) for key, value in entry.tags.items()}
    name = next(name for name in NAMES if name == entry.name)
    model_id = str(entry.source).removeprefix("models:/")
    digest, whole = tags.get(DIGEST, ""), tags.get(WEIGHTS_TAG) == WHOLE
    run_id, number = entry.run_id or tags.get(RUN), int(entry.version)
    pointing = tuple(sorted(alias for alias, version in aliases.items() if version == number))
    return Version(name, number, digest, pointing, tags, run_id, whole, model_id)


def describe_versions(name: str, versions: list[Version]) -> str:
    """A clause that lists the existing versions, for messages about a missing one."""
    if not versions:
        return f"{name} has no version yet: `mmalign run` registers one"
    words = [f"{version.number} ({', '.join(version.aliases)})" if version.aliases else str(version.number) for version in versions]
    return f"there are {', '.join(words)}" if len(words) > 1 else f"there is {words[0]}"
