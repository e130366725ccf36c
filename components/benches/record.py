"""A benchmark's result in MLflow: a run of its own, with the version of the model that it is about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.errors import StageFault
from components.registry.packaging import ModelName
from components.registry.registry import Registry
from components.tracking.recorder import Recorder
from components.tracking.runs import base_tags

BENCH, DIGEST, VERSION = "mmalign.bench", "mmalign.digest", "mmalign.version"
DIGEST_CHARACTERS = 12  # of the model's digest, in the names of results


def version_of_digest(checkout: Checkout, name: ModelName, digest: str) -> str | None:
    """The newest registered version with these weights, as `mm-policy/3`; None without one, or where the registry does not answer."""
    try:
        return next((str(version) for version in Registry(checkout).versions(name) if version.digest == digest), None)
    except StageFault:
        return None


def record_result(checkout: Checkout, bench: str, model: tuple[ModelName, str], numbers: Mapping[str, Any], files: list[Path]) -> None:
    """Log a result's numbers and files as a run. `model` is the name and the digest of the weights. An absent store gets it later."""
    name, digest = model
    version = version_of_digest(checkout, name, digest)
    tags = {**base_tags(checkout), BENCH: bench, DIGEST: digest, **({VERSION: version} if version is not None else {})}
    recorder = Recorder.create(checkout, f"bench {bench}", parent=None, tags=tags)
    recorder.metrics(dict(flat(numbers)))
    for path in files:
        recorder.artifact(path)
    recorder.end("FINISHED")


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The finite numbers of nested mappings, by dotted names in which MLflow's store takes every character."""
    numbers: list[tuple[str, float]] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            numbers += flat(value, f"{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            numbers.append((key, float(value)))
    return numbers
