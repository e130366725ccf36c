"""The one piece of DeepSpeed that is compiled here: sharing memory between ranks on a CPU. `python -m components.engine.ops` builds it.

Built once a checkout and library version, under a lock, by one process: ranks that build it themselves wait for each other through a lock
file that a killed build leaves behind for ever.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from components import stages
from components.errors import UserError

OP = "deepspeed_shm_comm"
BATON = "lock"  # torch's own lock file, in the op's folder


def ensure_built(environment: dict[str, str]) -> None:
    """Build the op into the environment's TORCH_EXTENSIONS_DIR unless it is there. On a machine with a GPU nothing is needed.

    Raises UserError where no compiler is found or the build fails.
    """
    folder = Path(environment["TORCH_EXTENSIONS_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".building"):
        # Held by nobody while we hold the lock: a leftover of a build that was killed.
        (folder / OP / BATON).unlink(missing_ok=True)
        if (folder / OP / f"{OP}.so").is_file():
            return
        import torch

        if torch.cuda.is_available():
            return
        if any(shutil.which(tool, path=environment["PATH"]) is None for tool in ("ninja", environment.get("CXX", "c++"))):
            raise UserError("DeepSpeed's CPU op needs a C++ compiler and ninja on PATH: install g++ (ninja comes with `make install`)")
        sys.stdout.write(f"training: building DeepSpeed's shared-memory op into {folder} (once; about half a minute)\n")
        sys.stdout.flush()
        built = subprocess.run(stages.command("build_ops"), env=environment, capture_output=True, text=True, check=False)
        if built.returncode != 0:
            raise UserError(f"DeepSpeed's CPU op could not be built: {' '.join(built.stderr.split())[-500:]}")


def build() -> None:
    """Compile and load the op in this process."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load()


if __name__ == "__main__":
    build()
