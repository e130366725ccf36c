"""`--set section.key=value`: changes to params.yaml and ops.yaml that touch nothing but the value, so that they leave a diff to read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from components.config.mistakes import unknown_key
from components.config.settings import known_keys, load_settings, settings_files
from components.errors import UserError
from components.files import write_json


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["alignment.beta=0.2"]` as {"alignment.beta": 0.2}; values are YAML, and nothing is the empty text. UserError for a bad form or an unknown key."""
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
            values[key] = _number(yaml.safe_load(text)) if text.strip() else ""
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


def changed_settings(path: Path, assignments: Sequence[str]) -> dict[Path, str]:
    """The text of each file of settings that `assignments` change, checked, all else as it was. params.yaml lies at `path`."""
    written = {key: as_written(value) for key, value in parse_assignments(assignments).items()}
    return changed_files(path, written, f"--set {' '.join(assignments)}")


def changed_files(path: Path, written: Mapping[str, str], where: str) -> dict[Path, str]:
    """As `changed_settings`, for values as they are written; errors name `where` they come from."""
    load_settings(path)
    texts = {}
    for file, sections in settings_files(path).items():
        before = file.read_text(encoding="utf-8")
        after = rewrite(before, {key: value for key, value in written.items() if key.partition(".")[0] in sections})
        if after != before:
            texts[file] = after
    if texts:
        load_settings(path, texts, where)
    return texts


def write_settings(path: Path, values: Mapping[str, Any]) -> None:
    """Write sections of both files, as JSON, which YAML takes too: each section into its file. params.yaml lies at `path`."""
    for file, sections in settings_files(path).items():
        write_json(file, {section: value for section, value in values.items() if section in sections})


def rewrite(text: str, written: Mapping[str, str]) -> str:
    """`text` of a file of settings with values put in as they are written; one that means the same already keeps its spelling.

    Every key must stand in `text`.
    """
    top = yaml.compose(text)
    spans = {key: _value_span(top, key) for key in written}
    for key in sorted(written, key=lambda key: spans[key], reverse=True):
        start, end = spans[key]
        if yaml.safe_load(text[start:end]) != yaml.safe_load(written[key]):
            text = text[:start] + written[key] + text[end:]
    return text


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _value_span(top: Any, dotted: str) -> tuple[int, int]:
    """Where the value of a key stands in the text that `top` was composed of: first and last character."""
    node = top
    for part in dotted.split("."):
        assert isinstance(node, yaml.MappingNode), "the file was checked against the known keys"
        node = next(value for key, value in node.value if key.value == part)
    return node.start_mark.index, node.end_mark.index


def as_written(value: Any) -> str:
    """A value as it stands behind its key in a file of settings."""
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=100_000)
    return text.removesuffix("\n").removesuffix("\n...")


class _Dumper(yaml.SafeDumper):
    """Quotes all but plain words: DVC's reader refuses an address within braces, and a comma there ends a text."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if re.search(r"[^\w./ -]", text) else None)


_Dumper.add_representer(str, _text)
