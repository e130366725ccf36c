"""`python -m infra.house.glossary`: no identifier is one of the words that the project has dropped, and test names are short.

The words and what to write in their place are those of CONTRIBUTING.md's glossary. Nouns are refused as a part of a name, and verbs and
adverbs as a whole name, since `is_done_callback` may be another library's.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from infra.house.sources import parse, python_files

LONGEST_TEST_NAME = 60
NOUNS = {
    "night": "scheduled_run",
    "aftermath": "after_run, publish, notify, clean_up",
    "workplace": "workspace",
    "screen": "console",
    "sentinel": "monitor",
    "settle": "register, commit, upsert, bootstrap: which it is",
    "mend": "repair, recover",
    "victim": "target",
    "opinion": "judgement",
    "card": "gpu",
    "fact": "ground_truth",
    "tower": "vision_tower",
    "news": "has_new_data",
    "carry": "import, migrate",
    "dear": "slow, expensive",
}
WHOLE = {
    "found": "the thing's own name",
    "known": "the thing's own name",
    "given": "the thing's own name",
    "asked": "the thing's own name",
    "told": "notified, message",
    "tell": "notify, report",
    "said": "message, sentence",
    "say": "log",
    "kept": "secrets, credentials, cached, retained",
    "done": "completed, finished, ended",
    "gone": "ended, missing",
    "there": "available, present",
    "place": "workspace, slot, position",
    "again": "what is repeated",
    "alone": "temporary, single_process",
    "held": "locked",
    "figures": "metrics",
    "truth": "ground_truth",
}
# What the right column is made of may hold a word of the left one.
RIGHT = re.compile(r"(?<![a-z])(ground_truth|vision_tower|data_card)s?(?![a-z])")

# Keys of settings are promised to users: training.parts.tower.
PROMISED = {(Path("components/config/training.py"), "tower")}


def main() -> int:
    """Print every fault and return how many there are, at most 1."""
    faults = [
        fault for path in python_files("components", "flows", "demo", "mlflow", "benchmarks", "infra", "tests") for fault in _faults(path)
    ]
    for fault in faults:
        print(fault)
    return int(bool(faults))


def _faults(path: Path) -> Iterator[str]:
    for part in path.with_suffix("").parts:
        if (instead := replacement(part)) is not None:
            yield f"{path}: the name holds '{part}': write {instead}"
    for line, name in _identifiers(parse(path)):
        if name.startswith("test_"):
            if len(name) > LONGEST_TEST_NAME:
                yield f"{path}:{line}: {name} has {len(name)} characters: name subject, condition and result in {LONGEST_TEST_NAME}"
        elif (instead := replacement(name)) is not None and (path, name) not in PROMISED:
            yield f"{path}:{line}: '{name}' is a word of the glossary's left column: write {instead}"


def replacement(name: str) -> str | None:
    """What to write in place of an identifier, or None where it may stay."""
    whole = name.strip("_").lower()
    if whole in WHOLE:
        return WHOLE[whole]
    words = "_".join(re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", name)).lower()
    return next((NOUNS[noun] for word in RIGHT.sub("", words).split("_") for noun in _singulars(word) if noun in NOUNS), None)


def _singulars(word: str) -> Iterator[str]:
    """What a plural or a past form may come from."""
    yield word
    for ending, root in (("s", ""), ("ed", ""), ("d", ""), ("ied", "y"), ("ies", "y")):
        if word.endswith(ending):
            yield word.removesuffix(ending) + root


def _identifiers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of everything that a file names itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


if __name__ == "__main__":
    sys.exit(main())
