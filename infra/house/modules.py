"""`python -m infra.house.modules`: modules are named by strings in components/stages.py alone, and every entry there exists.

An import contract sees no strings, and the closures of stages are computed from that table. So elsewhere nobody imports by a string, and no
text is the name of a module or starts one with `-m`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from infra.house.sources import ROOT, module_names, parse, python_files

TABLE = Path("components/stages.py")
IMPORTERS = {"import_module", "__import__", "run_module", "run_path", "spec_from_file_location"}
ALLOWED = {
    "benchmarks": {"run_path"},  # a benchmark may run the file that a person names
    "components/config/schedules.py": {"spec_from_file_location"},  # a file inside Prefect, without Prefect
}
OURS = re.compile(r"(?:components|flows|demo)(?:\.\w+)+(?::\w+)?")
STARTED = re.compile(r"-m[ ,]\s*[\"']?((?:components|flows|demo)(?:\.\w+)+)")
SETTINGS = ("prefect.yaml", "infra/compose.yaml", "infra/Dockerfile", "infra/install.sh", "Makefile", "dvc.yaml", "pyproject.toml")


def main() -> int:
    """Print every fault and return how many there are, at most 1."""
    modules = module_names()
    faults = [*_table_faults(modules), *_settings_faults(modules)]
    for path in python_files("components", "flows", "demo", "mlflow", "benchmarks"):
        if path != TABLE:
            faults += _faults(path, modules)
    for fault in faults:
        print(fault)
    return int(bool(faults))


def _faults(path: Path, modules: set[str]) -> Iterator[str]:
    tree = parse(path)
    docstrings = {id(text) for text in _docstrings(tree)}
    refused = IMPORTERS - ALLOWED.get(path.parts[0], set()) - ALLOWED.get(path.as_posix(), set())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) in refused:
            yield f"{path}:{node.lineno}: {_called(node)} imports by a string: name the module in {TABLE} and use its `load`"
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docstrings:
            continue
        names = [node.value] if OURS.fullmatch(node.value) else STARTED.findall(node.value)
        for name in names:
            if name.partition(":")[0] in modules:
                yield f"{path}:{node.lineno}: the text '{name}' names a module: put it into {TABLE} and use its name there"


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""


def _docstrings(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr):
                yield first.value


def _table_faults(modules: set[str]) -> Iterator[str]:
    for node in ast.walk(parse(TABLE)):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or not OURS.fullmatch(node.value):
            continue
        module, _, attribute = node.value.partition(":")
        if module not in modules:
            yield f"{TABLE}:{node.lineno}: there is no module {module}"
        elif attribute and attribute not in _defined(module):
            yield f"{TABLE}:{node.lineno}: {module} defines no {attribute}"


def _defined(module: str) -> set[str]:
    path = Path(*module.split("."))
    tree = parse(path.with_suffix(".py") if (ROOT / path).with_suffix(".py").is_file() else path / "__init__.py")
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return names | {
        target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets if isinstance(target, ast.Name)
    }


def _settings_faults(modules: set[str]) -> Iterator[str]:
    """Files that are no Python and have to name a module themselves name one that exists."""
    for name in SETTINGS:
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1):
            for started in STARTED.findall(line):
                if started not in modules:
                    yield f"{name}:{number}: there is no module {started}"


if __name__ == "__main__":
    sys.exit(main())
