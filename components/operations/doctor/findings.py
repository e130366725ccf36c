"""The finding of a check, and the loop over all checks. A check that raises is a problem, and stops no other check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """The result of a check: `text` describes it, `cure` says what to do, and is None where the state is ok; `details` are the text for scripts."""

    state: State
    text: str
    cure: str | None = None
    details: dict[str, Any] | None = None

    def as_json(self, name: str) -> dict[str, Any]:
        """The finding for scripts."""
        values = {"name": name, "state": self.state, "found": self.text, "cure": self.cure}
        return values if self.details is None else {**values, "details": self.details}


Check = Callable[[Checkout], Finding]


class NotChecked(Exception):
    """A check lacks its basis, since another check has failed, which reports that itself."""


def ok(text: str, details: dict[str, Any] | None = None) -> Finding:
    """All is well."""
    return Finding("ok", text, None, details)


def warning(text: str, cure: str, details: dict[str, Any] | None = None) -> Finding:
    """A run works, but with a drawback."""
    return Finding("warning", text, cure, details)


def problem(text: str, cure: str) -> Finding:
    """A run would fail, or nobody could trust its result."""
    return Finding("problem", text, cure)


def some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def settings_of(checkout: Checkout) -> Settings:
    """The settings, for checks that need them. Raises NotChecked where they are not valid."""
    try:
        return checkout.settings()
    except UserError as error:
        raise NotChecked("the settings are not valid") from error


def run_checks(checkout: Checkout, checks: Mapping[str, Check], beside: frozenset[str] = frozenset()) -> dict[str, Finding]:
    """The finding of every check, in their order. Checks in `beside` run in a thread beside the others."""
    with ThreadPoolExecutor(max_workers=max(1, len(beside))) as pool:
        waiting = {name: pool.submit(_checked, checkout, checks[name]) for name in checks if name in beside}
        findings = {name: _checked(checkout, check) for name, check in checks.items() if name not in beside}
        return {name: waiting[name].result() if name in waiting else findings[name] for name in checks}


def as_json(findings: Mapping[str, Finding]) -> dict[str, Any]:
    """The findings for scripts: `checks`, and the number of `problems`."""
    return {
        "checks": [finding.as_json(name) for name, finding in findings.items()],
        "problems": sum(finding.state == "problem" for finding in findings.values()),
    }


def _checked(checkout: Checkout, check: Check) -> Finding:
    try:
        return check(checkout)
    except NotChecked as reason:
        return warning(f"not checked: {reason}", "solve that first, then run mmalign doctor again")
    except UserError as error:
        return problem(str(error), "do what the sentence says")
    except Exception as error:  # noqa: BLE001 -- any error of a broken installation is this check's finding
        message = " ".join(str(error).split())[:300]
        return problem(
            f"the check itself failed: {type(error).__name__}: {message}",
            "repair what the message names; `make install` repairs an installation",
        )
