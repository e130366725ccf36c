"""Removes the scratch of finished stages: checkpoints and generated critiques, from which an unfinished stage resumes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from components.checkout import Checkout
from components.storage.plan import Step


def remove_finished_scratch(checkout: Checkout, steps: Mapping[str, Step]) -> None:
    """Remove the scratch folders of stages whose step is `skip`."""
    for name, step in steps.items():
        if step.action == "skip":
            shutil.rmtree(checkout.scratch() / name, ignore_errors=True)
