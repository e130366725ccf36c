"""The checkout that a rehearsal works in: sampled rows, links to base and facts, and the run's settings with fewer epochs.

It lies in the state folder and is made anew for each rehearsal. Media are linked hard, since validation refuses links that leave the folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from components.checkout import Checkout
from components.config.overrides import write_settings as save
from components.config.settings import Settings
from components.files import write_atomic
from components.rehearsal.sample import Row, Sample


def prepare(checkout: Checkout, sample: Sample) -> Checkout:
    """Make the checkout with the sampled rows and their media; `write_settings` comes next."""
    absolute = checkout.absolute()
    made = Checkout(absolute.rehearsal)
    shutil.rmtree(made.root, ignore_errors=True)
    made.preferences.mkdir(parents=True)
    for name, rows in (("data.jsonl", sample.train), ("heldout.jsonl", sample.heldout)):
        write_atomic(made.preferences / name, "".join(row.line.rstrip("\n") + "\n" for row in rows))
        _link_media(absolute.preferences, made.preferences, rows)
    absolute.torch_extensions.mkdir(parents=True, exist_ok=True)
    for path in (absolute.deepspeed, absolute.ground_truth.parent, absolute.torch_extensions):
        if path.is_dir():
            _link(path, made.root / path.relative_to(absolute.root))
    return made


def write_settings(made: Checkout, checkout: Checkout, settings: Settings) -> None:
    """Write the settings of the trials: those of the run, with at most two epochs, and link the base that they name."""
    values = settings.model_dump(mode="json", by_alias=True)
    for section in ("reward", "alignment"):
        values[section]["epochs"] = min(2, values[section]["epochs"])  # the second may begin with the model's own critiques
    values["evaluate"]["fresh_share"] = 0.0  # a few rows may have nothing to divide
    save(made.params, values)
    base = made.root / settings.model.base
    if not base.exists():
        _link((checkout.root / settings.model.base).resolve(), base)


def forget_stage(made: Checkout, stage: str) -> None:
    """Remove what an earlier trial of a stage left, so that the next one starts anew."""
    for folder in (made.scratch(stage), made.artifact(stage)):
        shutil.rmtree(folder, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder, 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _link_media(source: Path, target: Path, rows: Sequence[Row]) -> None:
    for medium in sorted({path for row in rows for path in row.media}):
        at, to = source / medium, target / medium
        inside = to.resolve().is_relative_to(target.resolve())
        if not inside or to.exists() or not at.exists():
            continue  # validation names a path that leaves the folder, and a missing medium
        to.parent.mkdir(parents=True, exist_ok=True)
        if at.is_dir():
            shutil.copytree(at, to, copy_function=_copy)
        else:
            _copy(at, to)


def _copy(source: Path | str, target: Path | str) -> None:
    """A hard link, or a copy where the file systems differ."""
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
