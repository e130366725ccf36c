"""`mmalign status`: shows running stages, the machine's slots, the last runs, stale stages and the registry's models. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from components.operations.environment import enter_checkout
from components.printable import open_console
from components.stages import STAGE_NAMES

RUN_STYLES = {"FINISHED": "green", "FAILED": "red", "KILLED": "yellow", "RUNNING": "bold cyan"}
STAGE_STYLES = {"ran": "green", "failed": "bold red", "killed": "red", "running": "bold cyan", "restored": "cyan"}


def status(as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False) -> None:
    """Show running stages and the users of the machine's GPUs, the last runs, stale stages, and the models' aliases."""
    from components.operations.doctor.services import be_quick
    from components.operations.doctor.state import read_status

    checkout = enter_checkout()
    be_quick()
    state = read_status(checkout)
    if as_json:
        print(json.dumps(state, indent=2))
        return
    open_console().print(render(state))


def render(state: Mapping[str, Any]) -> Group:
    """The status as tables of rich."""
    parts: list[Any] = [_now_lines(state["running"])]
    parts += [_workspace_line(workspace) for workspace in state["workspaces"]]
    if any(slot["holder"] is not None for slot in state["slots"]):
        parts += [Text(), _slots_table(state["slots"])]
    under_way = state["running"]["run"] is not None and (state["summary"] or {}).get("status") == "running"
    if state["summary"] is not None and not under_way:  # during a run it has no metrics yet
        parts += [Text(), _headline_lines(state["summary"])]
    if state["runs"]:
        parts += [Text(), _runs_table(state["runs"])]
    if state["plan"]:
        parts += [Text(), _plan_table(state["plan"])]
    if any(model["aliases"] or model["versions"] for model in state["registry"].values()):
        parts += [Text(), _registry_table(state["registry"])]
    elif not state["runs"] and state["summary"] is None:
        parts += [Text(), Text("no run is recorded yet; `mmalign run` makes the first", style="dim")]
    if state["notes"]:
        parts += [Text(), *(Text(f"note: {note}", style="yellow") for note in state["notes"])]
    return Group(*parts)


def _now_lines(running: Mapping[str, Any]) -> Any:
    lines = Text()
    run, stages = running["run"], running["stages"]
    left = [process for process in running["processes"] if process["leftover"]]
    if run is not None:
        lines.append(f"a run is under way since {_when(run['started'])}: process {run['pid']} ({run['command']})", style="bold cyan")
        lines.append(f"; {len(running['processes'])} processes belong to it")
    for stage in stages:
        since = f"since {_when(stage['started'])}"
        lines.append(f"{chr(10) if lines else ''}stage {stage['stage']} runs {since}: process {stage['pid']}", style="cyan")
    if not run and not stages:
        lines.append("nothing runs in this checkout")
    if left:
        pids = " ".join(str(process["pid"]) for process in left)
        lines.append(f"\n{len(left)} processes of an earlier run block the next run: kill -9 {pids}", style="bold red")
    return lines


def _workspace_line(workspace: Mapping[str, Any]) -> Any:
    stages = ", ".join(stage["stage"] for stage in workspace["stages"])
    since = f" since {_when(workspace['run']['started'])}" if workspace["run"] is not None else ""
    return Text(f"a run is under way in {workspace['folder']}{since}{f': {stages}' if stages else ''}", style="cyan")


def _slots_table(slots: list[dict[str, Any]]) -> Table:
    table = _table("slot", "used by stage", "process", "since", "checkout")
    for slot in slots:
        holder = slot["holder"]
        if holder is None:
            table.add_row(slot["slot"], Text("free", style="green"), "–", "–", "–")
        else:
            # Other processes wrote these: rich must not read them as markup.
            cells = (holder["stage"], str(holder["pid"]), _moment(holder["since"]), holder["checkout"])
            table.add_row(slot["slot"], *(Text(cell) for cell in cells))
    return table


def _headline_lines(summary: Mapping[str, Any]) -> Any:
    from components.report.table import looks_of

    policy, reward = summary["policy"], summary["reward"]
    base, aligned = policy["base"], policy["aligned"]
    lines = Text()
    lines.append("last summary", style="bold")
    # Without a run under way, only a kill leaves the status `running`.
    ended = "ended by a kill" if summary["status"] == "running" else f"{summary['status']} after {_duration(summary['seconds'])}"
    lines.append(f": {ended}")
    if summary["failed_stage"]:
        lines.append(f" in stage {summary['failed_stage']}; its log: {summary['log']}", style="red")
    if since := summary.get("stages_since"):
        lines.append(
            f"\nsince then {', '.join(since)} ran outside `mmalign run`: these are their metrics; `mmalign run` judges them", style="yellow"
        )
    metrics = []
    if aligned["conversation"] is not None:
        metrics.append(f"right answers {_scaled(base['conversation'], 1)} → {_scaled(aligned['conversation'], 1)}")
    if aligned["unsafe_rate"] is not None:
        metrics.append(f"unsafe {_scaled(base['unsafe_rate'], 100)} → {_scaled(aligned['unsafe_rate'], 100)} %")
    if policy["win_rate"] is not None:
        metrics.append(f"wins {_scaled(policy['win_rate'], 100)} % against the base")
    if reward["acc"] is not None:
        metrics.append(f"reward model's ACC {_scaled(reward['acc'], 100)} %")
    if metrics:
        lines.append(f"\n{'; '.join(metrics)}")
    for model, decided in (summary["gate"] or {}).items():
        verdict = decided.get("verdict") if isinstance(decided, Mapping) else None
        if verdict:
            lines.append(f"\n{model}: {'; '.join([verdict.replace('_', ' '), *looks_of(decided.get('reuse'))])}")
    return lines


def _runs_table(runs: list[dict[str, Any]]) -> Table:
    table = _table("started", "run", "time", "stages")
    for run in runs:
        stages = Text("; ").join(
            Text(f"{word.replace('_', ' ')}: {names}", style=STAGE_STYLES.get(word, "dim"))
            for word, names in _grouped(run["stages"]).items()
        )
        words = Text(run["status"].lower(), style=RUN_STYLES.get(run["status"], ""))
        table.add_row(_when(run["started"]), words, _duration(run["seconds"]), stages)
    return table


def _grouped(stages: Mapping[str, str]) -> dict[str, str]:
    """Stages by status: `ran` to `reward, align`."""
    groups: dict[str, list[str]] = {}
    for name, word in stages.items():
        groups.setdefault(word, []).append(name)
    return {word: "all" if len(names) == len(STAGE_NAMES) else ", ".join(names) for word, names in groups.items()}


def _plan_table(plan: Mapping[str, Mapping[str, str]]) -> Any:
    from components.cli.run.plan import STYLES, WORDS

    if all(step["action"] == "skip" for step in plan.values()):
        return Text("nothing is stale", style="green")
    table = _table("stage", "next run", "because")
    for name, step in plan.items():
        table.add_row(name, Text(WORDS[step["action"]], style=STYLES[step["action"]]), step["reason"])
    return table


def _registry_table(registry: Mapping[str, Any]) -> Table:
    table = _table("model", "alias", "version", "digest", "verdict")
    for name, model in registry.items():
        for alias, at in model["aliases"].items():
            table.add_row(name, alias, f"{at['version']} of {model['versions']}", (at["digest"] or "–")[:12], at["verdict"] or "–")
        if model["versions"] and not model["aliases"]:
            table.add_row(name, "none", f"{model['versions']} in all", "–", "–")
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _when(moment: str) -> str:
    """A moment in this machine's time."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M")


def _moment(text: str) -> str:
    """The same for another process's text, unchanged where it is not a time."""
    try:
        return _when(text)
    except ValueError:
        return text


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _scaled(value: float | None, scale: int) -> str:
    return "–" if value is None else f"{value * scale:.1f}"
