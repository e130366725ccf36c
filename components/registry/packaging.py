"""Builds MLflow's package of a promoted model: weights, processor files, code, signature, input example, requirements.

- The model is code (mlflow/policy_model.py, mlflow/reward_model.py) and safetensors: nothing in the folder is a pickle.
- It needs no checkout: `code/` contains the modules of `components` that it imports, directly or not. All else comes from Python's package
  registry. A process that has already imported `components` uses its own modules instead.
- Large weights are links into DVC's cache, not copies.
"""

from __future__ import annotations

import ast
import base64
import io
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from components.config.settings import Settings
from components.errors import StageFault, UserError
from components.storage.objects import put_file

ModelName = Literal["mm-policy", "mm-reward"]

WEIGHTS = "artifacts/model"  # a package's folder of the checkpoint
SOURCE = Path(__file__).resolve().parents[2]  # the checkout whose code this is
MODEL_CODE: dict[ModelName, str] = {"mm-policy": "policy_model.py", "mm-reward": "reward_model.py"}
# The imports of the modules in code/, and the packages that transformers needs for images and chat templates but does not require.
PACKAGES = (
    "mlflow",
    "torch",
    "torchvision",
    "transformers",
    "safetensors",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "jinja2",
)


def serving_settings(name: ModelName, settings: Settings) -> dict[str, Any]:
    """The run's settings that a registered model needs, to answer as in its evaluation."""
    shared = settings.model.model_dump(include={"attention", "max_length", "max_frames", "background"})
    if name == "mm-policy":
        return {**shared, "batch_size": settings.evaluate.batch_size, "max_new_tokens": settings.evaluate.max_new_tokens}
    critique = {"batch_size": settings.critique.batch_size, "max_new_tokens": settings.critique.max_new_tokens}
    return {**shared, **critique, "instruction": settings.reward.instruction}


def build(
    name: ModelName,
    folder: Path,
    target: Path,
    serving: Mapping[str, Any],
    *,
    cached: Mapping[str, Path],
    model_id: str,
    run_id: str | None,
) -> None:
    """Write the package of the checkpoint `folder` to `target`, which must not exist.

    `cached` maps names to the same files in DVC's cache, as far as it has them: large ones become links.
    """
    from mlflow.models import Model

    import mlflow
    from components.reward.recorded_source import critique_source_of

    code = SOURCE / "mlflow" / MODEL_CODE[name]
    if not code.is_file():
        raise UserError(f"{code} is missing: models are registered from a checkout of the repository, so run the command in one")
    scratch = target.with_name(f"{target.name}.parts")
    shell, modules = scratch / "model", scratch / "components"
    try:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        for item in names:
            if not item.endswith(".safetensors"):
                put_file(folder / item, shell / item, link=False)
        # The modules of both models: one process may load both, and the first model's `components` serves the second.
        codes = [SOURCE / "mlflow" / name for name in MODEL_CODE.values()]
        for module in sorted({module for each in codes for module in needed_modules(each)}):
            put_file(SOURCE / module, scratch / module, link=False)
        with no_progress():
            mlflow.pyfunc.save_model(
                path=str(target),
                python_model=str(code),
                code_paths=[str(modules)],
                artifacts={"model": str(shell)},
                model_config=dict(serving),
                signature=signature(name, serving, critiques=name != "mm-reward" or critique_source_of(folder) != "none"),
                input_example=input_example(name),
                pip_requirements=requirements(),
                mlflow_model=Model(run_id=run_id, model_id=model_id),
            )
        described = Model.load(str(target))
        flavor = described.flavors["python_function"]
        stored = flavor["artifacts"]["model"]
        if stored["path"] != WEIGHTS:
            raise StageFault(f"MLflow {mlflow.__version__} put the model's files into {stored['path']}, not {WEIGHTS}: use another version")
        stored["uri"], flavor["model_code_path"] = WEIGHTS, code.name  # instead of paths of this machine
        weights = target / WEIGHTS
        for item in names:
            if item.endswith(".safetensors"):
                put_file(cached.get(item, folder / item), weights / item, link=item in cached)
        described.model_size_bytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        described.save(str(target / "MLmodel"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def no_progress() -> Iterator[None]:
    """Disable MLflow's progress bars and remarks for the block."""
    logger, name = logging.getLogger("mlflow.pyfunc"), "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
    before, level = os.environ.get(name), logger.level
    os.environ[name] = "false"
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def needed_modules(code: Path) -> list[Path]:
    """Paths, relative to the checkout, of the modules of `components` that a file imports, directly or not."""
    needed: set[Path] = set()
    waiting = [code]
    while waiting:
        for module in _imports(waiting.pop()):
            for path in _files_of(module):
                if path not in needed:
                    needed.add(path)
                    waiting.append(SOURCE / path)
    return sorted(needed)


def _imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] == "components"}


def _files_of(module: str) -> list[Path]:
    """The module's file, if it is one, and the packages around it."""
    parts = module.split(".")
    files = [Path(*parts[:depth]) / "__init__.py" for depth in range(1, len(parts) + 1)]
    return [path for path in (*files, Path(*parts).with_suffix(".py")) if (SOURCE / path).is_file()]


def requirements() -> list[str]:
    """The packages that a registered model needs, in their installed versions without build tags such as +cpu."""
    return [f"{package}=={metadata.version(package).split('+')[0]}" for package in PACKAGES]


def signature(name: ModelName, serving: Mapping[str, Any], *, critiques: bool = True) -> Any:
    """Columns in and out. An image is text, bytes, a list of them or missing, and a row has a prompt or messages, so types are open.

    Without `critiques` a reward model writes no token.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    inputs = [
        ColSpec(DataType.string, "prompt", required=False),
        ColSpec(AnyType(), "messages", required=False),
        ColSpec(AnyType(), "image", required=False),
    ]
    outputs = [ColSpec(DataType.string, "answer")]
    if name == "mm-reward":
        inputs.append(ColSpec(DataType.string, "response"))
        outputs = [ColSpec(DataType.string, "critique", required=critiques), ColSpec(DataType.double, "score")]
    limit = ParamSpec("max_new_tokens", DataType.long, int(serving["max_new_tokens"]))
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema([limit]) if critiques else None)


def input_example(name: ModelName) -> Any:
    """Two rows: one with an image in base64, as in a request over the network, and one without."""
    import pandas as pd
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(picture, "PNG")
    rows: dict[str, list[str | None]] = {
        "prompt": ["What colour is this?", "What is two and two?"],
        "image": [base64.b64encode(picture.getvalue()).decode(), None],
    }
    if name == "mm-reward":
        rows["response"] = ["It is red.", "Four."]
    return pd.DataFrame(rows, dtype="object")  # pandas' text type turns missing values into NaN, which JSON lacks
