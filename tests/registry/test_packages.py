"""What is in the packages of models, and that they open without the checkout."""

from __future__ import annotations

import ast
import json
import os
import pickletools
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from components.families.digests import model_digest
from components.registry import packaging
from components.registry.packaging import MODEL_CODE, PACKAGES, SOURCE, WEIGHTS, needed_modules
from tests.registry.packaged import TOKENS, no_pickle, own_answers, policy, policy_package, reward, reward_folder, reward_package, rows

__all__ = ["no_pickle", "policy", "policy_package", "reward", "reward_folder", "reward_package"]


def test_input_example_is_answered(policy: Any, reward: Any) -> None:
    assert len(policy.predict(policy.input_example)) == 2
    assert len(reward.predict(reward.input_example)) == 2


def test_signature_names_inputs_and_outputs(policy: Any, reward: Any) -> None:
    assert policy.metadata.get_input_schema().input_names() == ["prompt", "messages", "image"]
    assert policy.metadata.get_output_schema().input_names() == ["answer"]
    assert reward.metadata.get_input_schema().input_names() == ["prompt", "messages", "image", "response"]
    assert reward.metadata.get_output_schema().input_names() == ["critique", "score"]
    assert policy.metadata.get_params_schema().params[0].default == TOKENS


def is_pickle(path: Path) -> bool:
    if zipfile.is_zipfile(path):
        return True  # torch.save, joblib and the like
    try:
        for _ in pickletools.genops(path.read_bytes()):
            pass
    except (ValueError, IndexError, UnicodeDecodeError):
        return False
    return True


def test_package_contains_no_pickle(policy_package: Path, reward_package: Path, tmp_path: Path) -> None:
    files = [path for folder in (policy_package, reward_package) for path in folder.rglob("*") if path.is_file()]
    torch.save({"a": 1}, tmp_path / "weights.bin")

    assert is_pickle(tmp_path / "weights.bin")
    assert [path.name for path in files if is_pickle(path)] == []
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".py", ".yaml", ".txt", ""}


def test_package_has_checkpoint_and_no_local_path(policy_package: Path, tiny_base: Path) -> None:
    stored = policy_package / WEIGHTS

    assert model_digest(stored) == model_digest(tiny_base)
    assert {path.name for path in stored.iterdir()} == {path.name for path in tiny_base.iterdir()}
    described = (policy_package / "MLmodel").read_text()
    assert str(SOURCE) not in described
    assert str(policy_package.parent) not in described


@pytest.mark.parametrize("name", MODEL_CODE)
def test_requirements_cover_imports_of_packaged_code(name: packaging.ModelName) -> None:
    code = SOURCE / "mlflow" / MODEL_CODE[name]
    imported = set()
    for file in (code, *(SOURCE / module for module in needed_modules(code))):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    # Training imports these where it needs them: a package opens whole models, and runs no rank of an engine.
    foreign = imported - set(sys.stdlib_module_names) - {"components", "deepspeed", "liger_kernel", "peft", "psutil"}
    distributions = metadata.packages_distributions()

    missing = {module for module in foreign if not {name.lower() for name in distributions[module]} & set(PACKAGES)}

    assert missing == set()


@pytest.mark.slow
def test_one_process_loads_both_packages_without_checkout(
    policy_package: Path, reward_package: Path, tiny_base: Path, tiny_media: Path, tmp_path: Path
) -> None:
    script = (
        "import sys, json, pandas, mlflow\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "answers = model.predict(pandas.read_json(sys.argv[2], dtype=False))\n"
        "mlflow.pyfunc.load_model(sys.argv[3])\n"
        "import components\n"
        "print(json.dumps([components.__file__, list(answers['answer'])]))\n"
    )
    rows(tiny_media).to_json(tmp_path / "rows.json")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    completed = subprocess.run(
        [sys.executable, "-c", script, str(policy_package), str(tmp_path / "rows.json"), str(reward_package)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert completed.returncode == 0, completed.stderr
    where, answers = json.loads(completed.stdout.splitlines()[-1])
    assert Path(where).is_relative_to(policy_package)
    assert answers == own_answers(tiny_base, tiny_media)
