"""`mmalign backup` and `mmalign restore`: copy a checkout's state outside git into a folder, and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from components.operations.environment import enter_checkout


def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new or empty folder")],
    with_cache: Annotated[
        bool,
        typer.Option("--with-cache", help="also models and data of DVC's cache that dvc.lock names: needed if no remote has them"),
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, metavar="N", help="write into a dated folder of DIR, and remove all but the newest N"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Back up databases, artifacts, DVC's lock files, settings and passwords. Services and runs may continue meanwhile."""
    from components.operations.backup.make import dated, make_backup, remove_old
    from components.operations.backup.restore import described

    target = folder.absolute()
    checkout = enter_checkout()
    log = _printer(as_json=as_json)
    made = make_backup(checkout, target if keep is None else dated(target), with_cache=with_cache, log=log)
    if keep is not None:
        remove_old(target, keep, log)
    if as_json:
        print(json.dumps({"folder": str(made.folder), "bytes": made.bytes, **described(made.manifest)}, indent=2))
        return
    print(f"{made.folder}: {len(made.manifest.files):,} files, {made.bytes / 1e6:,.1f} MB, each with its checksum in manifest.json")
    if made.manifest.kind == "services":
        print("it contains the passwords of the services (state/secrets.json), and only you can read the folder: leave its permissions")
    if not with_cache:
        print("it lacks DVC's models and data: `dvc push --run-cache -r s3` copies them to your remote, --with-cache into the backup")


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a backup")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Check a whole backup, then restore it into a checkout without services. After an interruption, run it again."""
    from components.operations.backup.restore import described, restore_backup

    source = folder.absolute()
    checkout = enter_checkout()
    manifest = restore_backup(checkout, source, _printer(as_json=as_json))
    if as_json:
        print(json.dumps(described(manifest), indent=2))
        return
    print(f"restored the checkout of {manifest.made}")
    if manifest.kind == "services":
        print("next: mmalign up --detach")
        if manifest.root != str(checkout.root):
            print(f"then: mmalign deploy, so that the deployments run here and not in {manifest.root}")


def _printer(*, as_json: bool) -> Callable[[str], None]:
    return lambda text: print(text, file=sys.stderr if as_json else sys.stdout, flush=True)
