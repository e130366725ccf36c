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


def remove_finished_checkpoints(checkout: Checkout, steps: Mapping[str, Step]) -> None:
    """Remove the checkpoints of stages whose step is `skip`, during a run: the next training needs the disk. Curves stay until the next run."""
    for name, step in steps.items():
        if step.action == "skip":
            for folder in checkout.scratch(name).glob("*/*"):
                if folder.is_dir():  # all else that a stage leaves there are small files
                    shutil.rmtree(folder, ignore_errors=True)
