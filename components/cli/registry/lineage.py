"""`mmalign lineage MODEL`: shows a version's inputs, which of them are still available, and the commands that rebuild it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from components.operations.environment import enter_checkout
from components.printable import open_console

WIDTH = 160  # columns without a terminal: hashes stay whole
FILES = {"params.yaml": "settings", "ops.yaml": "operations", "data.dvc": "data", "dvc.yaml": "stages", "dvc.lock": "hashes"}


def lineage(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="mm-policy@champion, or mm-policy/3 by its number")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
    files: Annotated[
        Path | None,
        typer.Option(
            "--files", metavar="FOLDER", help="write the run's params.yaml, ops.yaml, data.dvc, dvc.yaml, dvc.lock and git.diff into it"
        ),
    ] = None,
) -> None:
    """Show a registered version's inputs, who promoted it and why, and the commands that rebuild it."""
    here = Path.cwd()
    checkout = enter_checkout()

    from components.registry.lineage import lineage_of, write_files
    from components.registry.registry import Registry

    registry = Registry(checkout)
    version = registry.resolve(model)
    if files is not None:
        written = write_files(checkout, version, here / files)
        print(f"wrote {', '.join(written)} of the run of {version} into {files}")
        return
    origin = lineage_of(registry, checkout, version.name, version.number)
    if as_json:
        print(json.dumps(origin, indent=2, sort_keys=True))
        return
    console = open_console(markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(*_parts(origin), sep="\n")


def _parts(origin: dict[str, Any]) -> Iterator[RenderableType]:
    """The printed parts. Tags are foreign text, so rich must not read styles in them."""
    version = origin["version"]
    aliases = f"  ({', '.join(version['aliases'])})" if version["aliases"] else ""
    yield Text(f"{version['name']}/{version['number']}{aliases}", style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for title, words in _rows(origin):
        table.add_row(Text(title), Text(words))
    yield table
    if origin["stages"]:
        yield Text()
        yield _stages(origin["stages"])
    yield Text("\nrebuild it with", style="bold")
    for command in origin["rebuild"]:
        yield Text(command)


def _rows(origin: dict[str, Any]) -> Iterator[tuple[str, str]]:
    version, promotion, run, git, dvc = (origin[key] for key in ("version", "promotion", "run", "git", "dvc"))
    available = origin["available"]
    made = f", made whole from version {version['made_whole_from']}" if version["made_whole_from"] else ""
    yield "weights", f"{version['digest']} ({'in the registry' if version['weights'] == 'registry' else 'by reference'}{made})"
    yield "verdict", _or_dash(promotion["verdict"])
    for number, reason in enumerate(promotion["reasons"]):
        yield "" if number else "reasons", reason
    if promotion["by"] or promotion["because"]:
        yield "promoted by", ": ".join(filter(None, (promotion["by"], promotion["because"])))
    missing = "" if run["found"] or run["id"] is None else "  (no longer in the record)"
    details = f"  {run['name']}, {run['started']}, {run['status'].lower()}" if run["found"] else missing
    yield "run", f"{_or_dash(run['id'])}{details}"
    recorded = [f"{name} ({words})" for name, words in FILES.items() if origin["files"][name] is not None]
    yield "files of the run", ", ".join(recorded) or "–"
    state = "" if git["sha"] is None else f"  {'in this clone' if available['git']['found'] else 'not in this clone'}"
    yield "git", f"{_or_dash(git['sha'])}{state}"
    if git["dirty"]:
        yield "", _changes(git["diff"])
    yield "data", _whereabouts(dvc["data"], available["data"])
    path = "" if dvc["path"] is None else f"  {dvc['path']}"
    yield "model", f"{_whereabouts(dvc['model'], available['model'])}{path}"
    yield "base model", f"digest {_or_dash(origin['base_digest'])}, DVC {_or_dash(dvc['base'])}"
    reward = origin["reward_model"]
    if reward is not None:
        name = f"mm-reward/{reward['version']}" if reward["version"] else "not in the registry"
        yield "reward model", f"{name}, digest {_or_dash(reward['digest'])}, DVC {_whereabouts(reward['dvc'], available['reward_model'])}"


def _changes(diff: dict[str, Any] | None) -> str:
    if diff is None:
        return "with uncommitted changes, which the record lacks"
    return f"with uncommitted changes: git.diff of the run, {diff['bytes']} bytes{'' if diff['whole'] else ', cut'}"


def _whereabouts(value: str | None, copies: dict[str, Any]) -> str:
    if value is None:
        return "–"
    sources = (["DVC's cache"] if copies["cached"] else []) + [f"remote '{name}'" for name in copies["remotes"]]
    unsure = "".join(f"; remote '{name}' can't be reached: {reason}" for name, reason in copies["unreachable"].items())
    return f"{value}  {'in ' + ' and '.join(sources) if sources else 'in no cache or remote'}{unsure}"


def _stages(stages: dict[str, Any]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("stage", "status", "run", "started", "git"):
        table.add_column(title, overflow="fold")
    for name, stage in stages.items():
        sha = "–" if stage["git_sha"] is None else f"{stage['git_sha'][:12]}{' with changes' if stage['dirty'] else ''}"
        run = _or_dash(stage["run_id"]) + ("" if stage["found"] else " (no longer in the record)")
        table.add_row(*(Text(words) for words in (name, stage["status"].replace("_", " "), run, _or_dash(stage["started"]), sha)))
    return table


def _or_dash(value: str | None) -> str:
    return "–" if value is None else value
