"""Finds the checkout of a command, and sets the environment of this process and its children.

Tools of the virtual environment come first on PATH: dvc looks up stage commands there, and torch looks up ninja. Telemetry is off. Compiled
ops live in the checkout, so that two checkouts or two versions of ninja never rebuild each other's ops.
"""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from components.checkout import Checkout
from components.errors import UserError
from components.operations.services.state import client_environment
from components.processes.machine_errors import raise_open_file_limit

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}

# glibc returns freed memory to the system and maps it again for the next tensor, which costs a training step on a CPU up to half its time.
# It reads these variables when a process starts, so they take effect in child processes. Blocks of 32 MB and more, such as the pixels of a
# photograph, are mapped by themselves: they leave no holes. One arena: what a thread frees serves the others. Both make a process take the
# same memory every time.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "1",
}


def find_checkout(start: Path | None = None) -> Checkout:
    """The nearest folder with dvc.yaml, from `start` (by default the current folder) upwards. Raises UserError where there is none."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return Checkout(folder)
    raise UserError(f"{here} lies in no checkout of the pipeline (no dvc.yaml in it or above it): run the command in a checkout")


def enter_checkout() -> Checkout:
    """Change to the checkout's root, set the environment of this process and its children, and return the root."""
    checkout = find_checkout()
    os.chdir(checkout.root)
    os.environ.update(QUIET)
    for name, value in KEEP_MEMORY.items():
        os.environ.setdefault(name, value)
    # Do not resolve sys.executable: the python of a virtual environment is a link that leads out of its bin folder.
    tools = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != tools:
        os.environ["PATH"] = os.pathsep.join([tools, path])
    os.environ["SHELL"] = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
    os.environ["TORCH_EXTENSIONS_DIR"] = str(checkout.torch_extensions)
    _name_user()
    raise_open_file_limit()
    # A checkout with services has its record there. The caller's own variables win.
    for name, value in client_environment(checkout).items():
        os.environ.setdefault(name, value)
    return checkout


def _name_user() -> None:
    """Name this user in the environment where the system has no name, as in a container under any number: libraries refuse to work without."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())
