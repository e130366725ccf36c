"""Checks of what is installed: Python, packages, the tools that build DeepSpeed's op, torch."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from components.engine.ops import OP
from components.operations.doctor.findings import Finding, NotChecked, ok, problem, settings_of, warning

PYTHON = ">=3.11,<3.14"
# Versions that break a run although an installer takes them: (package, versions that work, what happens with others).
PINS = (
    ("fastapi", "<0.151", "Prefect's server fails with a newer one when it is asked something"),
    ("sqlalchemy", "<2.1", "with a newer one Prefect never starts scheduled runs, and says nothing"),
    ("transformers", ">=5.17", "an older one lacks the model classes in use"),
)
INSTALL = "make install brings the versions of requirements.txt"
TORCH_SECONDS = 60.0
TORCH_QUESTIONS = (
    "import json, torch; "
    "print(json.dumps([torch.__version__, torch.version.cuda, [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]]))"
)


def python_version(root: Path) -> Finding:  # noqa: ARG001 -- every check takes the checkout
    """The interpreter is one that the pipeline runs on."""
    from packaging.specifiers import SpecifierSet

    found = f"Python {platform.python_version()} in {sys.prefix}"
    if platform.python_version() not in SpecifierSet(PYTHON):
        return problem(f"{found}, which is not {PYTHON}", "install Python 3.11, 3.12 or 3.13, remove .venv and run make install")
    return ok(found)


def packages(root: Path) -> Finding:
    """What is installed is what requirements.txt says."""
    from packaging.requirements import Requirement

    lock = root / "requirements.txt"
    if not lock.is_file():
        return warning("there is no requirements.txt to compare with", "take it back with: git checkout requirements.txt")
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
        parts = [f"{len(missing)} missing ({_some(missing)})"] if missing else []
        parts += [f"{len(other)} of another version: {_some(other)}"] if other else []
        return problem(f"of {len(wanted)} packages in requirements.txt {'; '.join(parts)}", INSTALL)
    return ok(f"all {len(wanted)} packages are as in requirements.txt")


def version_pins(root: Path) -> Finding:  # noqa: ARG001 -- every check takes the checkout
    """Packages that break a run with the wrong version, whatever requirements.txt says, have a right one."""
    from packaging.specifiers import SpecifierSet

    found = []
    for package, works, why in PINS:
        version = _installed(package)
        if version is None:
            return problem(f"{package} is not installed", INSTALL)
        if not SpecifierSet(works).contains(version, prereleases=True):
            return problem(f"{package} {version} is not {works}: {why}", f"{INSTALL}; or: uv pip install '{package}{works}'")
        found.append(f"{package} {version}")
    return ok(", ".join(found))


def compiler(root: Path) -> Finding:
    """A C++ compiler is there, for DeepSpeed's CPU op."""
    name = os.environ.get("CXX", "c++")
    path = shutil.which(name)
    if path is not None:
        return ok(path)
    found = f"no C++ compiler on PATH ({name})"
    cure = "install g++ (Debian, Ubuntu: apt install g++) or clang (macOS: xcode-select --install)"
    if _op_file(root).is_file() or has_gpu() or settings_of(root).training.engine != "deepspeed":
        return warning(f"{found}; nothing has to be built at present", cure)
    return problem(f"{found}, and DeepSpeed's CPU op is not built yet", cure)


def ninja(root: Path) -> Finding:
    """torch finds ninja, which it asks for even where the op is built."""
    path = shutil.which("ninja")
    if path is not None:
        return ok(path)
    if settings_of(root).training.engine != "deepspeed":
        return ok("not on PATH, and not needed with training.engine: ddp")
    return problem("no ninja on PATH: DeepSpeed can't load its op", "make install puts it beside Python; use mmalign from that environment")


def cpu_op(root: Path) -> Finding:
    """DeepSpeed's shared-memory op is built."""
    if _op_file(root).is_file():
        return ok("built, in .mmalign/torch_extensions")
    if has_gpu():
        return ok("not built, and not needed on a machine with a GPU")
    if settings_of(root).training.engine != "deepspeed":
        return ok("not built, and not needed with training.engine: ddp")
    return warning("not built yet: the first training waits half a minute for it", "make install builds it")


def torch_state(root: Path) -> Finding:
    """torch loads, and sees the GPUs that the machine has and that stages ask for."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", TORCH_QUESTIONS], capture_output=True, text=True, timeout=TORCH_SECONDS, check=False, cwd=root
        )
    except subprocess.TimeoutExpired:
        return problem(f"torch did not load within {TORCH_SECONDS:.0f} s", "see what else uses the disk and the cores, then look again")
    if asked.returncode != 0:
        why = (asked.stderr.strip().splitlines() or [f"it ended with code {asked.returncode}"])[-1]
        return problem(f"torch does not load: {why[:300]}", INSTALL)
    version, cuda, gpus = json.loads(asked.stdout.splitlines()[-1])
    if not gpus and has_gpu():
        return problem(
            f"torch {version} (CUDA {cuda or 'none'}) sees no GPU, and the machine has one",
            "install a driver that fits this CUDA, or a torch built for the driver (nvidia-smi names it)",
        )
    found = f"torch {version}, " + (f"CUDA {cuda}: {', '.join(gpus)}" if gpus else "on the CPU")
    try:
        wanted = {f"stages.{name}.gpus": stage.gpus for name, stage in settings_of(root).stages.items() if stage.gpus > len(gpus)}
    except NotChecked:
        return ok(found)
    if wanted:
        asks = ", ".join(f"{key} is {count}" for key, count in wanted.items())
        return problem(f"{found}; but {asks}", "lower that in params.yaml, or use a machine with more GPUs")
    return ok(found)


def has_gpu() -> bool:
    """Whether the machine shows an NVIDIA GPU, and this process may use one."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(Path("/dev").glob("nvidia[0-9]*"))


def _op_file(root: Path) -> Path:
    return root / ".mmalign" / "torch_extensions" / OP / f"{OP}.so"


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
