"""docs/paper.md names functions, tests and settings: each exists, and no statement is without a function and a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from components.config.settings import known_keys
from tests.conftest import ROOT

PAGE = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
REFERENCE = re.compile(r"`((?:components|tests)/[\w/]+\.py)(?:::([\w.]+))?`")
SETTING = re.compile(r"`((?:alignment|reward|training)\.\w+)(?:: \w+)?`")


def definitions(path: Path) -> set[str]:
    """Functions, classes and methods that a module defines, methods as Class.method."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return names


def tables() -> list[tuple[list[str], list[list[str]]]]:
    """(header, rows) of the page's tables."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", PAGE, re.MULTILINE)
    split = [[[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()] for block in blocks]
    return [(lines[0], lines[2:]) for lines in split]


@pytest.mark.parametrize(("path", "name"), sorted(set(REFERENCE.findall(PAGE))))
def test_what_the_page_names_exists(path: str, name: str) -> None:
    assert (ROOT / path).is_file()
    assert not name or name in definitions(ROOT / path)


def test_every_statement_has_a_function_and_a_test() -> None:
    stated = 0
    for header, rows in tables():
        for column, folder in ((next((i for i, title in enumerate(header) if title.startswith(kind)), None), f) for kind, f in KINDS):
            for row in rows if column is not None else ():
                assert len(row) == len(header), row
                named = REFERENCE.findall(row[column])
                assert named, f"no {folder} for: {row[0]}"
                assert all(path.startswith(folder) and name for path, name in named), row
                stated += 1
    assert stated > 80


KINDS = (("function", "components/"), ("test", "tests/"))


def test_page_names_all_alignment_settings_and_no_missing_ones() -> None:
    named = set(SETTING.findall(PAGE))
    existing = {".".join(key.split(".")[:2]) for key in known_keys()}
    assert named <= existing, named - existing
    of_method = {key for key in existing if key.startswith("alignment.")} - {"alignment.max_steps", "alignment.queries_per_step"}
    assert of_method <= named, of_method - named


def test_every_equation_is_followed_by_its_functions() -> None:
    for block in re.split(r"^```$", PAGE, flags=re.MULTILINE)[2::2]:
        first_table = re.search(r"^\|.*$", block, re.MULTILINE)
        assert first_table is not None
        assert "function" in first_table[0]
