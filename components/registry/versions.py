"""A registered version, as MLflow's entries describe it, and the tags and aliases by which it is known."""

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
SERVING = "mmalign.serving"  # the settings that a registered model answers with, as JSON: a run's own, whenever it is made whole
MADE_WHOLE_FROM = "mmalign.made_whole_from"
RUN = "mmalign.run"  # the run's name while it waits for a store that was away, MLflow's id otherwise
CHECKOUT = "mmalign.checkout"
MODEL_NAME = "mmalign.model"  # on logged models: what they are kept for
RESULTS = "results"


@dataclass(frozen=True)
class Version:
    """A registered version. `digest` is that of the weights (`model_digest`), `whole` whether they are in the registry."""

    name: ModelName
    number: int
    digest: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str | None
    whole: bool
    model_id: str = field(repr=False)  # the logged model that holds its artifacts

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


def aliases_of(client: Any, name: ModelName) -> dict[str, int]:
    """Alias to version number; a search for versions in a database store leaves them out."""
    from mlflow.exceptions import MlflowException

    try:
        return {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def version_of(entry: Any, aliases: Mapping[str, int]) -> Version:
    """The version that an entry of MLflow stands for; `aliases` maps alias to version number."""
    tags = {str(key): str(value) for key, value in entry.tags.items()}
    name = next(name for name in NAMES if name == entry.name)
    model_id = str(entry.source).removeprefix("models:/")
    digest, whole = tags.get(DIGEST, ""), tags.get(WEIGHTS_TAG) == WHOLE
    run_id, number = entry.run_id or tags.get(RUN), int(entry.version)
    pointing = tuple(sorted(alias for alias, version in aliases.items() if version == number))
    return Version(name, number, digest, pointing, tags, run_id, whole, model_id)


def those_there_are(name: str, known: list[Version]) -> str:
    """Names the versions that there are, for somebody who asked for another."""
    if not known:
        return f"{name} has no version yet: `mmalign run` registers one"
    words = [f"{version.number} ({', '.join(version.aliases)})" if version.aliases else str(version.number) for version in known]
    return f"there are {', '.join(words)}" if len(words) > 1 else f"there is {words[0]}"
