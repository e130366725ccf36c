"""Both kinds of models as MLflow packages, and opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.config.settings import load_settings
from components.families.loading import load_model
from components.generation.generate import generate
from components.registry import packaging
from components.registry.model_input import IMAGE_ROOT
from components.registry.packaging import SOURCE, build, serving_settings
from components.reward.model import new_reward_model
from tests.tiny import preprocessor, queries

TOKENS = 6


@pytest.fixture(scope="module", autouse=True)
def no_pickle() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        patch.setenv(IMAGE_ROOT, "/")  # these tests name images by path
        yield


def package(name: packaging.ModelName, checkpoint: Path, target: Path) -> Path:
    settings = load_settings(SOURCE / "params.yaml")
    serving = serving_settings(name, settings) | {"max_new_tokens": TOKENS, "batch_size": 2}
    build(name, checkpoint, target, serving, cached={}, model_id="m-1", run_id=None)
    return target


@pytest.fixture(scope="module")
def policy_package(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package("mm-policy", tiny_base, tmp_path_factory.mktemp("policy") / "package")


@pytest.fixture(scope="module")
def reward_folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "model"
    new_reward_model(load_model(tiny_base), seed=0).save(folder, tiny_base)
    return folder


@pytest.fixture(scope="module")
def reward_package(reward_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package("mm-reward", reward_folder, tmp_path_factory.mktemp("reward-package") / "package")


@pytest.fixture(scope="module")
def policy(policy_package: Path) -> Any:
    import mlflow

    return mlflow.pyfunc.load_model(str(policy_package))


@pytest.fixture(scope="module")
def reward(reward_package: Path) -> Any:
    import mlflow

    return mlflow.pyfunc.load_model(str(reward_package))


def rows(media: Path) -> pd.DataFrame:
    """The tiny queries without their videos, images as paths."""
    chosen = [query for query in queries() if "video" not in query.kinds]
    images = [str(media / query.media[0].path) if query.media else None for query in chosen]
    return pd.DataFrame({"prompt": [query.prompt for query in chosen], "image": images})


def own_answers(base: Path, media: Path) -> list[str]:
    prepare = preprocessor(base, media)
    roots = [prepare.policy_root(query) for query in queries() if "video" not in query.kinds]
    tokens = generate(load_model(base), roots, [[]] * len(roots), max_new_tokens=TOKENS, batch_size=2, end_id=prepare.end_id)
    return [prepare.tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens]
