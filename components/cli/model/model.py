"""`mmalign model`: fetches a base model into the checkout, verifies a fetched one, and says how to serve one."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from components.checkout import Checkout
from components.errors import UserError
from components.files import read_json
from components.operations.environment import enter_checkout

app = typer.Typer(help="Fetch a base model, or verify one.", no_args_is_help=True, rich_markup_mode=None)


@app.command("fetch")
def fetch(
    source: Annotated[str, typer.Argument(metavar="ID", help="a model on the hub (owner/name), or a local folder")],
    revision: Annotated[str | None, typer.Option("--revision", metavar="R", help="branch, tag or commit on the hub")] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FOLDER", help="target folder; by default data/models/NAME")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Fetch safetensors, configuration, tokenizer and processor files, each checked by its checksum. A stopped fetch resumes."""
    from components.families.hub.fetch import MODELS
    from components.families.hub.fetch import fetch as fetch_model

    here, offline = Path.cwd(), os.environ.get("HF_HUB_OFFLINE")
    checkout = enter_checkout()
    # The pipeline never connects to the hub. This command does, unless the person's environment forbids it.
    os.environ["HF_HUB_OFFLINE"] = offline or "0"
    folder = (here / Path(source).expanduser()).resolve()
    if folder.is_dir():
        source = str(folder)
    target = (here / to).resolve() if to is not None else checkout.root / MODELS / Path(source).name
    shown = _shown(target, checkout)
    fetched = fetch_model(source, revision, target, shown, lambda words: print(words, file=sys.stderr))
    cure = f"mmalign configure --set model.base={shown}"
    if as_json:
        values = {"folder": shown, "revision": fetched.revision, "bytes": fetched.bytes, "already": fetched.already, "next": cure}
        print(json.dumps({**values, "completed": fetched.completed}, indent=2))
        return
    print(f"{shown}: {fetched.bytes / 1e9:.2f} GB, {'already present, ' if fetched.already else ''}every file verified")
    if fetched.completed:
        print(f"written from the checkpoint's older files: {', '.join(fetched.completed)}")
    print(f"next: {cure}, or a profile (mmalign configure --list)")


@app.command("verify")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a checkpoint")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Compare a checkpoint with the checksums of its fetch, and with what the checkpoint of its profile publishes. Exit code 2 for differences."""
    from components.families.hub import compare
    from components.families.hub.files import CONFIG, check_folder
    from components.families.hub.manifest import MANIFEST
    from components.families.hub.manifest import verify as verify_folder

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    where = str(folder)
    count = verify_folder(folder, where) if (folder / MANIFEST).is_file() or not (folder / CONFIG).is_file() else None
    check_folder(folder, where)
    published = compare.published_of(folder, read_json(folder / CONFIG))
    faults = compare.faults(folder)
    differences = compare.differences(folder, published) if published is not None and not faults else []
    if as_json:
        listed = [{"field": one.field, "is": one.value, "expected": one.expected} for one in differences]
        values = {"folder": where, "files": count, "profile": published.profile if published else None, "faults": faults}
        print(json.dumps({**values, "differences": listed}, indent=2, default=str))
    else:
        print(f"{where}: {'no fetch made it, so it has no checksums' if count is None else f'{count} files verified'}")
        for fault in faults:
            print(f"refused: {fault}")
        if published is None:
            print("no profile has this checkpoint: its files, tokenizer and chat template were checked, its settings were not compared")
        else:
            guessed = {field.name for field in published.guessed}
            for one in differences:
                mark = " (guessed)" if one.field.split(": ")[-1] in guessed else ""
                print(f"{one.field}: {one.value!r}, expected {one.expected!r}{mark}")
            if not faults:
                print(f"{len(differences)} differences from the checkpoint of the profile {published.profile} (docs/checkpoints.md)")
    if faults or differences:
        raise typer.Exit(2)


@app.command("serve-command")
def serve_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a model of this checkout, such as artifacts/reward/model")],
    role: Annotated[str | None, typer.Option("--as", metavar="SERVER", help="reward, base or aligned: its server in `endpoint`")] = None,
) -> None:
    """Print the command that serves a model by vLLM for `critique.engine` or `evaluate.engine: endpoint`."""
    from components.endpoints import serve_command as serving
    from components.families.digests import HEAD_FILE

    target = (Path.cwd() / folder).resolve()
    checkout = enter_checkout()
    settings = checkout.settings()
    if role is not None and role not in serving.ROLES:
        raise UserError(f"--as is '{role}', and the servers are {', '.join(serving.ROLES)}")
    role = role or serving.role_of(target, settings, checkout)
    if role == "reward" and (target / HEAD_FILE).is_file():
        from components.reward.recorded_source import critique_source_of

        if critique_source_of(target) == "none":
            raise UserError(f"{folder} was trained without critiques, so a server has none to write: keep critique.engine local")
    environment, arguments = serving.serve_command(target, role, settings)
    print(" ".join([*(f'{name}="{value}"' for name, value in environment.items()), shlex.join(arguments)]))


def _shown(path: Path, checkout: Checkout) -> str:
    return path.relative_to(checkout.root).as_posix() if path.is_relative_to(checkout.root) else str(path)
