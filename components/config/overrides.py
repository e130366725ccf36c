"""`--set section.key=value`: changes to params.yaml that touch nothing but the value, so that they leave a diff to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from components.config.mistakes import unknown_key
from components.config.settings import Settings, known_keys, load_settings, parse_settings
from components.errors import UserError


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["alignment.beta=0.2"]` as {"alignment.beta": 0.2}; values are YAML. UserError for a bad form or an unknown key."""
    keys = set(known_keys())
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        key = key.strip()
        if not separator:
            raise UserError(f"--set {assignment}: write it as section.key=value, for example --set alignment.beta=0.2")
        if key not in keys:
            raise UserError(f"--set {assignment}: {unknown_key(key, sorted(keys))}")
        try:
            values[key] = _number(yaml.safe_load(text))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"--set {assignment}: the value is not valid YAML; quote it") from error
    return values


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text; people mean the number."""
    if isinstance(value, str) and any(digit in value for digit in "0123456789"):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def changed_settings(path: Path, assignments: Sequence[str]) -> str | None:
    """The text of params.yaml with `assignments` made and checked, all else as it was; None when they change nothing."""
    values = parse_assignments(assignments)
    load_settings(path)
    text = path.read_text(encoding="utf-8")
    after = rewrite(text, {key: _written(value) for key, value in values.items()})
    if after == text:
        return None
    parse_settings(yaml.safe_load(after), f"{path} with --set {' '.join(assignments)}")
    return after


def settings_with(path: Path, text: str | None) -> Settings:
    """The settings of `text`, which `changed_settings` returned and checked, or of the file where it is None."""
    return load_settings(path) if text is None else parse_settings(yaml.safe_load(text), f"{path} with --set")


def rewrite(text: str, written: Mapping[str, str]) -> str:
    """`text` of params.yaml with values put in as they are written; one that means the same already keeps its spelling.

    Every key must stand in `text`.
    """
    top = yaml.compose(text)
    spans = {key: _value_span(top, key) for key in written}
    for key in sorted(written, key=lambda key: spans[key], reverse=True):
        start, end = spans[key]
        if yaml.safe_load(text[start:end]) != yaml.safe_load(written[key]):
            text = text[:start] + written[key] + text[end:]
    return text


def _value_span(top: Any, dotted: str) -> tuple[int, int]:
    """Where the value of a key stands in the text that `top` was composed of: first and last character."""
    node = top
    for part in dotted.split("."):
        assert isinstance(node, yaml.MappingNode), "the file was checked against the known keys"
        node = next(value for key, value in node.value if key.value == part)
    return node.start_mark.index, node.end_mark.index


def _written(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=100_000).removesuffix("\n").removesuffix("\n...")
