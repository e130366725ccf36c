"""`mmalign clean`: removes old scratch, logs, clones and objects of DVC's cache, by the settings under `clean`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.checkout import Checkout
from components.operations.environment import enter_checkout
from components.rehearsal.sizes import size

if TYPE_CHECKING:
    from components.operations.cleaning.findings import Findings


def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the files, and remove nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print each file and folder as JSON")] = False,
) -> None:
    """Remove old scratch, logs, clones and unused objects of DVC's cache. A champion's files always stay."""
    from components.config.settings import load_settings
    from components.operations.cleaning.sweep import inspect, sweep

    checkout = enter_checkout()
    settings = load_settings().clean
    findings = (inspect if dry_run else sweep)(checkout, settings, time.time())
    if as_json:
        print(json.dumps(_as_json(checkout, findings, dry_run=dry_run), indent=2))
    else:
        _print(checkout, findings, dry_run=dry_run)


def _as_json(checkout: Checkout, findings: Findings, *, dry_run: bool) -> dict[str, Any]:
    items = [{"kind": item.kind, "path": _short(checkout, item.path), "bytes": item.size, "why": item.why} for item in findings.removable]
    return {"schema": 1, "dry_run": dry_run, "bytes": findings.size, "removed": items, "spared": findings.spared}


def _print(checkout: Checkout, findings: Findings, *, dry_run: bool) -> None:
    from components.operations.cleaning.findings import KINDS

    for kind in KINDS:
        items = [item for item in findings.removable if item.kind == kind]
        if not items:
            continue
        print(f"{kind}: {len(items)}, {size(sum(item.size for item in items))}")
        if kind in {"cache", "run-cache"}:  # thousands, named by hashes
            print(f"  {items[0].why}" + (" (the first of them; --json lists all)" if len(items) > 1 else ""))
        else:
            for item in items:
                print(f"  {_short(checkout, item.path)}  {size(item.size)}  {item.why}")
    for sentence in findings.spared:
        print(sentence)
    words = "would be freed" if dry_run else "freed"
    print(f"{size(findings.size)} {words}" if findings.removable else "nothing is old enough to be removed")


def _short(checkout: Checkout, path: Path) -> str:
    return str(path.relative_to(checkout.root)) if path.is_relative_to(checkout.root) else str(path)
