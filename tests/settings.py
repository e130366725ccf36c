"""The shipped settings for tests: both files as one mapping, or copied into a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = ("params.yaml", "ops.yaml")


def shipped() -> dict[str, Any]:
    """The sections of both files, as YAML reads them. `components.config.overrides.write_settings` writes them back."""
    return {section: values for name in FILES for section, values in yaml.safe_load((ROOT / name).read_text()).items()}


def copy_settings(folder: Path) -> Path:
    """Copy both files into `folder`; returns the path of params.yaml there."""
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder / FILES[0]
