"""The Python files of the repository, parsed once each."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = ("components", "flows", "demo", "mlflow", "benchmarks", "infra")
TESTS = ("tests",)


def python_files(*folders: str) -> Iterator[Path]:
    """Tracked and new Python files below `folders`, as paths relative to the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *(f"{folder}/**.py" for folder in folders)]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    yield from (Path(name) for name in sorted(set(names)) if (ROOT / name).is_file())


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def module_names() -> set[str]:
    """Dotted names of all modules and packages of components, flows and demo."""
    names: set[str] = set()
    for path in python_files("components", "flows", "demo"):
        parts = path.with_suffix("").parts
        names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names
