"""`mmalign configure`: settings for a model and a machine, from profiles/*.yaml onto params.yaml and ops.yaml, comments kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from components.checkout import Checkout
from components.config.profiles import PROFILES, header, names
from components.config.reading import yaml_values
from components.errors import UserError
from components.files import write_atomic
from components.operations.environment import enter_checkout
from components.printable import open_console


def configure(
    profile: Annotated[str | None, typer.Option("--profile", metavar="NAME", help="a file of profiles/, without .yaml")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting, after the profile's; repeat for more")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="show the profiles that there are")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Write a profile or single settings into params.yaml and ops.yaml; prints what changed, and what a run lacks next. `--profile demo` goes back."""
    checkout = enter_checkout()
    if show:
        _list(checkout.root / PROFILES, as_json=as_json)
        return
    if profile is None and not assignments:
        raise UserError("nothing to configure: name a profile (--profile, shown by --list) or a setting (--set section.key=value)")
    changes = apply(checkout, profile, assignments or [])
    from components.config.settings import settings_files
    from components.operations.preconditions.checks import as_json as preconditions_json
    from components.operations.preconditions.checks import checked, unmet
    from components.operations.preconditions.situation import Situation

    findings = unmet(checked(Situation(checkout, checkout.settings())))
    if as_json:
        changed = {key: {"from": old, "to": new} for key, (old, new) in changes.items()}
        print(json.dumps({"changed": changed, "preconditions": preconditions_json(findings)}, indent=2, default=str))
        return
    for key, (old, new) in changes.items():
        print(f"{key}: {_shown(old)} -> {_shown(new)}")
    for file, sections in settings_files(Path("params.yaml")).items():
        number = sum(key.partition(".")[0] in sections for key in changes)
        print(f"{file}: {number or 'nothing'}{' settings' if number > 1 else ' setting' if number else ''} changed")
    if findings:
        from components.cli.run.preconditions import render

        open_console().print(render(findings))


def apply(checkout: Checkout, profile: str | None, assignments: list[str]) -> dict[str, tuple[Any, Any]]:
    """Write the profile, then the assignments, into params.yaml and ops.yaml, all of it checked before any of it is written.

    Returns the changed keys with their old and new values.
    """
    import yaml

    from components.config.mistakes import listed, unknown_key
    from components.config.overrides import as_written, changed_files, parse_assignments
    from components.config.settings import known_keys

    where, written = [], {}
    if profile is not None:
        where.append(f"{PROFILES}/{profile}.yaml")
        written = dict(profile_values(checkout.root / PROFILES, profile))
        keys = set(known_keys())
        mistakes = [unknown_key(key, sorted(keys)) for key in written if key not in keys]
        if mistakes:
            raise UserError(listed(where[0], mistakes))
    for key, value in parse_assignments(assignments).items():
        written[key] = as_written(value)
    if assignments:
        where.append(f"--set {' '.join(assignments)}")
    old: dict[str, Any] = {}
    new: dict[str, Any] = {}
    for path, text in changed_files(checkout.params, written, " with ".join(where)).items():
        old |= yaml.safe_load(path.read_text(encoding="utf-8"))
        new |= yaml.safe_load(text)
        write_atomic(path, text)
    pairs = {key: (_value(old, key), _value(new, key)) for key in written if key.partition(".")[0] in old}
    return {key: (was, now) for key, (was, now) in pairs.items() if was != now}


def profile_values(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """Each key of a profile with its value as it is written there. Raises UserError when there is no such profile."""
    import yaml

    path = folder / f"{name}.yaml"
    if "/" in name or not path.is_file():
        raise UserError(f"--profile {name}: there is no such profile; there are {', '.join(names(folder)) or 'none'}")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise UserError(f"{path} is no UTF-8 text: save it as UTF-8") from error
    yaml_values(text, str(path))
    node = yaml.compose(text)
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path} must be a mapping of sections, as params.yaml is")
    yield from _leaves(node, text, "")


def _list(folder: Path, *, as_json: bool) -> None:
    headers = {name: header(folder / f"{name}.yaml") for name in names(folder)}
    if as_json:
        print(json.dumps(headers, indent=2))
        return
    width = max((len(name) for name in headers), default=0)
    for name, about in headers.items():
        print(f"{name:{width}}  {about.get('checkpoint', '')}; {about.get('machine', '')}")


def _leaves(node: Any, text: str, prefix: str) -> Iterator[tuple[str, str]]:
    import yaml

    for key, value in node.value:
        dotted = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            yield from _leaves(value, text, f"{dotted}.")
        else:
            yield dotted, text[value.start_mark.index : value.end_mark.index]


def _value(settings: Mapping[str, Any], dotted: str) -> Any:
    value: Any = settings
    for part in dotted.split("."):
        value = value[part]
    return value


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
