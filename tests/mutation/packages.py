"""What is mutated, and which tests have to notice it. The only file of this package that spells paths of the project.

The golden losses (tests/golden) are left out on purpose: they notice every change of a number without saying which number is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """Sources (files, or folders with all their files) and the tests that judge their mutants."""

    name: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]

    def source_files(self, root: Path) -> list[str]:
        """Relative paths of the sources, sorted."""
        return _files(root, self.sources, "*.py")

    def judging_files(self, root: Path) -> list[str]:
        """Relative paths of the test files, sorted."""
        return _files(root, self.tests, "test_*.py")


PACKAGES = (
    Package("reward", ("components/reward",), ("tests/reward", "tests/critique", "tests/engine/test_one_model.py")),
    Package("critique", ("components/critique",), ("tests/critique", "tests/reward")),
    Package("alignment", ("components/alignment",), ("tests/alignment",)),
    Package(
        "trees",
        (
            "components/trees/trees.py",
            "components/trees/attention.py",
            "components/trees/logprobs.py",
            "components/trees/scoring.py",
            "components/trees/planning.py",
        ),
        ("tests/trees", "tests/families/test_conformance.py", "tests/alignment/test_reference.py"),
    ),
    Package("evaluation", ("components/evaluation",), ("tests/evaluation",)),
    Package(
        "gate",
        (
            "components/registry/gate.py",
            "components/registry/judgement.py",
            "components/registry/reuse.py",
            "components/registry/decision.py",
            "components/statistics.py",
        ),
        (
            "tests/registry/test_gate.py",
            "tests/registry/test_gate_rules.py",
            "tests/registry/test_reuse.py",
            "tests/registry/test_policy_file.py",
            "tests/test_statistics.py",
        ),
    ),
)

# Folders of code, copied for every worker; everything else of a checkout is linked or copied once.
CODE_FOLDERS = ("components", "flows", "demo", "mlflow", "tests", "benchmarks")

# Imported before the first fork. Whatever else the tests import is learned from the clean run.
LIBRARIES = ("pytest", "torch", "transformers", "pyarrow.parquet", "pandas")


def _files(root: Path, paths: tuple[str, ...], pattern: str) -> list[str]:
    files: set[str] = set()
    for path in paths:
        if not (root / path).exists():
            raise FileNotFoundError(f"{path} is missing: correct the table in tests/mutation/packages.py")
        matches = [root / path] if (root / path).is_file() else (root / path).rglob(pattern)
        files.update(match.relative_to(root).as_posix() for match in matches)
    return sorted(files)
