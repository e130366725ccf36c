"""Where a command runs: the checkout's root, and the environment that every tool started from it gets.

Tools of the environment come first on PATH (dvc looks up stage commands there, torch looks up ninja), nothing phones home, and compiled
ops live in the checkout, so that two checkouts or two versions of ninja never rebuild each other's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from components.errors import UserError
from components.operations.services.state import client_environment

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}

# glibc gives freed memory back to the system and maps it again for the next tensor, which costs a training step on a CPU up to half of its
# time. It reads these when a process starts, so they reach what is started from here.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "268435456"}


def find_root(start: Path | None = None) -> Path:
    """The nearest folder, from `start` (the current one) upwards, that holds dvc.yaml. UserError when there is none."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise UserError(f"{here} lies in no checkout of the pipeline (no dvc.yaml in it or above it): run the command in one")


def enter_checkout() -> Path:
    """Go to the checkout's root and set the environment for this process and all that it starts; returns the root."""
    root = find_root()
    os.chdir(root)
    os.environ.update(QUIET)
    for name, value in KEEP_MEMORY.items():
        os.environ.setdefault(name, value)
    # sys.executable is not resolved: a virtual environment's python is a link that leads out of its bin folder
    tools = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != tools:
        os.environ["PATH"] = os.pathsep.join([tools, path])
    os.environ["SHELL"] = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
    os.environ["TORCH_EXTENSIONS_DIR"] = str(root / ".mmalign" / "torch_extensions")
    # A checkout whose services were ever up has its record there; another server is used where the caller names one.
    for name, value in client_environment(root).items():
        os.environ.setdefault(name, value)
    return root
