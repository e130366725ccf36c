"""What a check finds, and how a list of checks is gone through: one that raises is a problem of its own and stops no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from components.config.settings import Settings, load_settings
from components.errors import UserError

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What a check found, in words; `cure` says what to do, and is None where nothing has to be done."""

    state: State
    found: str
    cure: str | None = None


Check = Callable[[Path], Finding]


class NotChecked(Exception):
    """A check has nothing to go by, since another one, which says so itself, has failed."""


def ok(found: str) -> Finding:
    """All is well."""
    return Finding("ok", found)


def warning(found: str, cure: str) -> Finding:
    """A run works, but not as it might."""
    return Finding("warning", found, cure)


def problem(found: str, cure: str) -> Finding:
    """A run would fail, or could not be trusted."""
    return Finding("problem", found, cure)


def settings_of(root: Path) -> Settings:
    """The settings, for checks that go by them. Raises NotChecked where they are not valid."""
    try:
        return load_settings(root / "params.yaml")
    except UserError as error:
        raise NotChecked("params.yaml is not valid") from error


def run_checks(root: Path, checks: Mapping[str, Check], beside: frozenset[str] = frozenset()) -> dict[str, Finding]:
    """The finding of every check, in their order. Those named in `beside` wait for a process of their own while the others are made."""
    with ThreadPoolExecutor(max_workers=max(1, len(beside))) as pool:
        waiting = {name: pool.submit(_checked, root, checks[name]) for name in checks if name in beside}
        made = {name: _checked(root, check) for name, check in checks.items() if name not in beside}
        return {name: waiting[name].result() if name in waiting else made[name] for name in checks}


def as_json(findings: Mapping[str, Finding]) -> dict[str, Any]:
    """The findings for scripts: `checks`, and the number of `problems`."""
    return {
        "checks": [{"name": name, **asdict(finding)} for name, finding in findings.items()],
        "problems": sum(finding.state == "problem" for finding in findings.values()),
    }


def _checked(root: Path, check: Check) -> Finding:
    try:
        return check(root)
    except NotChecked as reason:
        return warning(f"not checked: {reason}", "cure that first, then look again")
    except Exception as error:  # noqa: BLE001 -- whatever a broken installation raises is this check's finding
        said = " ".join(str(error).split())[:300]
        return problem(
            f"the check itself failed: {type(error).__name__}: {said}",
            "mend what the message names; `make install` repairs an installation",
        )
