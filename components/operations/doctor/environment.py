"""Checks of the installation: Python, packages, torch, and the tools that build DeepSpeed's op."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from components.checkout import IN_CHECKOUT, Checkout
from components.engine.ops import OP
from components.operations.doctor.findings import Finding, ok, problem, settings_of, some, warning
from components.processes.slots.gpus import has_gpus

PYTHON = ">=3.11,<3.14"
# Packages with versions that install but break a run: (package, versions that work, effect of the others).
PINS = (
    ("fastapi", "<0.151", "with a newer version Prefect's server fails at its first request"),
    ("sqlalchemy", "<2.1", "with a newer version Prefect silently starts no scheduled run"),
    ("transformers", ">=5.17", "an older version lacks the model classes in use"),
)
INSTALL = "make install installs the versions of requirements.txt"
TORCH_SECONDS = 60.0
TORCH_QUESTIONS = (
    "import json, torch; "
    "print(json.dumps([torch.__version__, torch.version.cuda, [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]]))"
)


def python_version(checkout: Checkout) -> Finding:  # noqa: ARG001 -- every check takes the checkout
    """The pipeline supports this Python version."""
    from packaging.specifiers import SpecifierSet

    python = f"Python {platform.python_version()} in {sys.prefix}"
    if platform.python_version() not in SpecifierSet(PYTHON):
        return problem(f"{python}, which is not {PYTHON}", "install Python 3.11, 3.12 or 3.13, remove .venv and run make install")
    return ok(python)


def packages(checkout: Checkout) -> Finding:
    """The installed packages have the versions of requirements.txt."""
    from packaging.requirements import Requirement

    lock = checkout.requirements
    if not lock.is_file():
        return warning("requirements.txt is missing, so no version can be compared", "git checkout requirements.txt")
    lines = (line.partition(" #")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines())
    wanted = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate()]
    installed = {one.name: _installed(one.name) for one in wanted}
    missing = [one.name for one in wanted if installed[one.name] is None]
    other = [
        f"{one.name} {version} (not {one.specifier})"
        for one in wanted
        if (version := installed[one.name]) is not None and not one.specifier.contains(version, prereleases=True)
    ]
    if missing or other:
        parts = [f"{len(missing)} missing ({some(missing)})"] if missing else []
        parts += [f"{len(other)} of another version: {some(other)}"] if other else []
        return problem(f"of {len(wanted)} packages in requirements.txt {'; '.join(parts)}", INSTALL)
    return ok(f"all {len(wanted)} packages are as in requirements.txt")


def version_pins(checkout: Checkout) -> Finding:  # noqa: ARG001 -- every check takes the checkout
    """Packages with versions that break a run have a version that works, whatever requirements.txt says."""
    from packaging.specifiers import SpecifierSet

    versions = []
    for package, works, why in PINS:
        version = _installed(package)
        if version is None:
            return problem(f"{package} is not installed", INSTALL)
        if not SpecifierSet(works).contains(version, prereleases=True):
            return problem(f"{package} {version} is not {works}: {why}", f"{INSTALL}; or: uv pip install '{package}{works}'")
        versions.append(f"{package} {version}")
    return ok(", ".join(versions))


def compiler(checkout: Checkout) -> Finding:
    """A C++ compiler is available for DeepSpeed's CPU op."""
    name = os.environ.get("CXX", "c++")
    path = shutil.which(name)
    if path is not None:
        return ok(path)
    missing = f"no C++ compiler on PATH ({name})"
    cure = "install g++ (Debian, Ubuntu: apt install g++) or clang (macOS: xcode-select --install)"
    if _op_file(checkout).is_file() or has_gpus() or settings_of(checkout).training.engine != "deepspeed":
        return warning(f"{missing}; nothing needs one at present", cure)
    return problem(f"{missing}, and DeepSpeed's CPU op is not built yet", cure)


def ninja(checkout: Checkout) -> Finding:
    """torch finds ninja. It needs ninja even for an op that is built."""
    path = shutil.which("ninja")
    if path is not None:
        return ok(path)
    if settings_of(checkout).training.engine != "deepspeed":
        return ok("not on PATH, and not needed with training.engine: ddp")
    return problem(
        "no ninja on PATH: DeepSpeed can't load its op", "make install installs it beside Python; run mmalign from that environment"
    )


def cpu_op(checkout: Checkout) -> Finding:
    """DeepSpeed's shared-memory op is built."""
    if _op_file(checkout).is_file():
        return ok(f"built, in {IN_CHECKOUT.torch_extensions}")
    if has_gpus():
        return ok("not built, and not needed on a machine with a GPU")
    if settings_of(checkout).training.engine != "deepspeed":
        return ok("not built, and not needed with training.engine: ddp")
    return warning("not built yet: the first training builds it, which takes half a minute", "make install builds it")


def torch_state(checkout: Checkout) -> Finding:
    """torch loads, and sees the GPUs of the machine."""
    try:
        completed = subprocess.run(
            [sys.executable, "-c", TORCH_QUESTIONS], capture_output=True, text=True, timeout=TORCH_SECONDS, check=False, cwd=checkout.root
        )
    except subprocess.TimeoutExpired:
        return problem(
            f"torch did not load within {TORCH_SECONDS:.0f} s",
            "end other programs that use the disk and the cores, then run mmalign doctor again",
        )
    if completed.returncode != 0:
        why = (completed.stderr.strip().splitlines() or [f"it ended with code {completed.returncode}"])[-1]
        return problem(f"torch does not load: {why[:300]}", INSTALL)
    version, cuda, gpus = json.loads(completed.stdout.splitlines()[-1])
    if not gpus and has_gpus():
        return problem(
            f"torch {version} (CUDA {cuda or 'none'}) sees no GPU, and the machine has one",
            "install a driver that fits this CUDA, or a torch built for the driver (nvidia-smi names it)",
        )
    state = f"torch {version}, " + (f"CUDA {cuda}: {', '.join(gpus)}" if gpus else "on the CPU")
    return ok(state)


def _op_file(checkout: Checkout) -> Path:
    return checkout.torch_extensions / OP / f"{OP}.so"


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
