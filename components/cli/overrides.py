"""`--set section.key=value`: changes to params.yaml that keep its comments, and leave a diff to read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.errors import UserError


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["alignment.beta=0.2"]` as {"alignment.beta": 0.2}; values are YAML. UserError for a bad form or an unknown key."""
    import yaml

    from components.config import known_keys, nearest_key

    known = set(known_keys())
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        key = key.strip()
        if not separator:
            raise UserError(f"--set {assignment}: write it as section.key=value, for example --set alignment.beta=0.2")
        if key not in known:
            raise UserError(f"--set {assignment}: unknown key '{key}'; did you mean '{nearest_key(key)}'?")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {assignment}: the value is not valid YAML; quote it") from error
        values[key] = _number(values[key])
    return values


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value) if any(digit in value for digit in "0123456789") else value
        except ValueError:
            return value
    return value


def changed_settings(path: Path, assignments: Sequence[str]) -> str | None:
    """The text of params.yaml with `assignments` made and checked, comments kept; None when they change nothing."""
    from ruamel.yaml import YAML

    from components.config import load_settings, parse_settings

    values = parse_assignments(assignments)
    load_settings(path)
    before = path.read_text(encoding="utf-8")
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 10_000
    editor.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null"))
    document = editor.load(before)
    changed = False
    for key, value in values.items():
        *sections, last = key.split(".")
        section = document
        for name in sections:
            section = section[name]
        if section[last] != value or type(section[last]) is bool or isinstance(value, bool):
            changed = changed or section[last] != value
            section[last] = value
    if not changed:
        return None
    stream = io.StringIO()
    editor.dump(document, stream)
    after = stream.getvalue()
    parse_settings(YAML(typ="safe").load(after), f"{path} with --set {' '.join(assignments)}")
    return after
