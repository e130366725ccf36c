"""`mmalign status`: what runs, who holds the machine's slots, the last runs, what is stale, the registry's models. Nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

RUN_STYLES = {"FINISHED": "green", "FAILED": "red", "KILLED": "yellow", "RUNNING": "bold cyan"}
STAGE_STYLES = {"ran": "green", "failed": "bold red", "killed": "red", "running": "bold cyan", "restored": "cyan"}


def status(as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False) -> None:
    """Show what runs now and who holds the machine's GPUs, the last runs, what is stale, and the models' aliases."""
    from components.operations.doctor.services import be_quick
    from components.operations.doctor.state import read_status
    from components.operations.environment import enter_checkout

    root = enter_checkout()
    be_quick()
    found = read_status(root)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    Console(highlight=False).print(render(found))


def render(found: Mapping[str, Any]) -> Group:
    """The status as something that rich prints."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [_now_lines(found["running"])]
    if any(slot["holder"] is not None for slot in found["slots"]):
        parts += [Text(), _slots_table(found["slots"])]
    under_way = found["running"]["run"] is not None and (found["summary"] or {}).get("status") == "running"
    if found["summary"] is not None and not under_way:  # of a run under way it holds no figures yet
        parts += [Text(), _headline_lines(found["summary"])]
    if found["runs"]:
        parts += [Text(), _runs_table(found["runs"])]
    if found["plan"]:
        parts += [Text(), _plan_table(found["plan"])]
    if any(model["aliases"] or model["versions"] for model in found["registry"].values()):
        parts += [Text(), _registry_table(found["registry"])]
    elif not found["runs"] and found["summary"] is None:
        parts += [Text(), Text("no run is recorded yet; `mmalign run` makes the first", style="dim")]
    if found["notes"]:
        parts += [Text(), *(Text(f"note: {note}", style="yellow") for note in found["notes"])]
    return Group(*parts)


def _now_lines(running: Mapping[str, Any]) -> Any:
    from rich.text import Text

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
        lines.append(f"\n{len(left)} left of an earlier run; no run starts before they are gone: kill -9 {pids}", style="bold red")
    return lines


def _slots_table(slots: list[dict[str, Any]]) -> Table:
    from rich.text import Text

    table = _table("slot", "held by stage", "process", "since", "checkout")
    for slot in slots:
        holder = slot["holder"]
        if holder is None:
            table.add_row(slot["slot"], Text("free", style="green"), "–", "–", "–")
        else:
            # What others wrote is text, and no markup.
            told = (holder["stage"], str(holder["pid"]), _moment(holder["since"]), holder["checkout"])
            table.add_row(slot["slot"], *(Text(part) for part in told))
    return table


def _headline_lines(summary: Mapping[str, Any]) -> Any:
    from rich.text import Text

    policy, reward = summary["policy"], summary["reward"]
    base, aligned = policy["base"], policy["aligned"]
    lines = Text()
    lines.append("last summary", style="bold")
    # Only a kill leaves `running` behind when nothing runs.
    ended = "ended by a kill" if summary["status"] == "running" else f"{summary['status']} after {_duration(summary['seconds'])}"
    lines.append(f": {ended}")
    if summary["failed_stage"]:
        lines.append(f" in stage {summary['failed_stage']}; its log: {summary['log']}", style="red")
    figures = []
    if aligned["conversation"] is not None:
        figures.append(f"right answers {_figure(base['conversation'], 1)} → {_figure(aligned['conversation'], 1)}")
    if aligned["unsafe_rate"] is not None:
        figures.append(f"unsafe {_figure(base['unsafe_rate'], 100)} → {_figure(aligned['unsafe_rate'], 100)} %")
    if policy["win_rate"] is not None:
        figures.append(f"wins {_figure(policy['win_rate'], 100)} % against the base")
    if reward["acc"] is not None:
        figures.append(f"reward model's ACC {_figure(reward['acc'], 100)} %")
    if figures:
        lines.append(f"\n{'; '.join(figures)}")
    for model, decided in (summary["gate"] or {}).items():
        verdict = decided.get("verdict") if isinstance(decided, Mapping) else None
        if verdict:
            lines.append(f"\n{model}: {verdict.replace('_', ' ')}")
    return lines


def _runs_table(runs: list[dict[str, Any]]) -> Table:
    from rich.text import Text

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
    """Stages by what became of them: `ran` to `reward, align`."""
    groups: dict[str, list[str]] = {}
    for name, word in stages.items():
        groups.setdefault(word, []).append(name)
    return {word: "all" if len(groups) == 1 and len(names) > 1 else ", ".join(names) for word, names in groups.items()}


def _plan_table(plan: Mapping[str, Mapping[str, str]]) -> Any:
    from rich.text import Text

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
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _when(moment: str) -> str:
    """A moment in this machine's time."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M")


def _moment(told: str) -> str:
    """The same of what another process wrote, as it stands where it is no moment."""
    try:
        return _when(told)
    except ValueError:
        return told


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _figure(value: float | None, scale: int) -> str:
    return "–" if value is None else f"{value * scale:.1f}"
