"""`mmalign backup` and `mmalign restore`: what a checkout keeps outside git, into a folder and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new or empty folder")],
    with_cache: Annotated[
        bool,
        typer.Option("--with-cache", help="also the models and data of DVC's cache that dvc.lock names: needed where no remote has them"),
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, metavar="N", help="make it in a dated folder of DIR, and remove all there but the newest N"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Back up databases, artifacts, DVC's lock files, settings and passwords; services and runs may be at work."""
    from components.operations.backup.make import dated, make_backup, remove_old
    from components.operations.backup.restore import described
    from components.operations.environment import enter_checkout

    target = folder.absolute()
    root = enter_checkout()
    say = _speaker(as_json=as_json)
    made = make_backup(root, target if keep is None else dated(target), with_cache=with_cache, log=say)
    if keep is not None:
        remove_old(target, keep, say)
    if as_json:
        print(json.dumps({"folder": str(made.folder), "bytes": made.bytes, **described(made.manifest)}, indent=2))
        return
    print(f"{made.folder}: {len(made.manifest.files):,} files, {made.bytes / 1e6:,.1f} MB, each with its checksum in manifest.json")
    if made.manifest.kind == "services":
        print("the passwords of the services are in it (state/secrets.json); only you can read the folder: keep it so")
    if not with_cache:
        print("models and data that DVC keeps are not in it: `dvc push --run-cache -r s3` puts them into your remote, --with-cache in here")


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a backup")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Restore a backup into a checkout without services, after checking all of it. Cut short, run it again."""
    from components.operations.backup.restore import described, restore_backup
    from components.operations.environment import enter_checkout

    source = folder.absolute()
    root = enter_checkout()
    manifest = restore_backup(root, source, _speaker(as_json=as_json))
    if as_json:
        print(json.dumps(described(manifest), indent=2))
        return
    print(f"the checkout is as it was on {manifest.made}")
    if manifest.kind == "services":
        print("next: mmalign up --detach")
        if manifest.root != str(root):
            print(f"it was {manifest.root} then: `mmalign deploy` after that, so that its deployments run here")


def _speaker(*, as_json: bool) -> Callable[[str], None]:
    return lambda text: print(text, file=sys.stderr if as_json else sys.stdout, flush=True)
