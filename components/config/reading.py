"""Reads a YAML file of settings. DVC reads the same file by YAML 1.2, where some scalars are other values than by 1.1: those are refused."""

from __future__ import annotations

import re
from typing import Any

import yaml

from components.errors import UserError

# Plain scalars that PyYAML (1.1) and DVC's ruamel.yaml (1.2) read as different values.
AMBIGUOUS = re.compile(r"[-+]?0[0-9][0-9_]*|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|[-+]?[0-9]+(_[0-9]+)+|(?i:yes|no|on|off)")
DEEPEST = 64  # levels of a file of settings; both libraries recurse
MOST_ALIASES = 32
SHOWN = 60  # characters of a key in messages


def yaml_values(text: str, where: str) -> Any:
    """The values of a YAML text. Raises UserError for one that is not valid, too deep, or has a scalar of two meanings."""
    try:
        _check(text, where)
        values = yaml.safe_load(text)
        _check_keys(values, where)
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # a date that is none is a ValueError
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply to be a file of settings") from error
    return values


def _check_keys(values: Any, where: str) -> None:
    """Raises UserError for a key that is no text, or none that a file can hold."""
    for key, inner in values.items() if isinstance(values, dict) else ():
        if not isinstance(key, str) or not key.isprintable():
            raise UserError(f"{where} has the key {ascii(key)[:SHOWN]}, which names no setting: quote it, or remove it")
        _check_keys(inner, where)


def _check(text: str, where: str) -> None:
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > DEEPEST or aliases > MOST_ALIASES:
            raise UserError(
                f"{where} is no file of settings: it is nested more than {DEEPEST} deep, or has more than {MOST_ALIASES} aliases"
            )
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and AMBIGUOUS.fullmatch(event.value):
            line = 0 if event.start_mark is None else event.start_mark.line + 1
            raise UserError(
                f"{where} line {line}: {event.value} is another value for YAML 1.1 than for YAML 1.2, by which DVC "
                "reads it: write true or false, a plain decimal number, or quote a text"
            )
