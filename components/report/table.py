"""The summary of a run as tables for the terminal: status of each stage, and change of each metric by alignment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from components.checkout import Checkout
from components.files import read_json
from components.printable import open_console
from components.report.gate import decisive
from components.report.judgements import judges_of
from components.report.run_record import PAGE, SUMMARY
from components.report.summary import CORRECTED, MODELS
from components.stages import STAGE_NAMES
from components.storage.clones import is_complete

STATUS_STYLES = {"ran": "green", "skipped": "dim", "restored": "cyan", "failed": "bold red", "not_reached": "yellow"}
SHOWN_REASONS = 4  # of a refusal; the decisive ones come first
RUN_STYLES = {"ok": "green", "failed": "red", "cancelled": "yellow", "running": "yellow"}
# name in the summary, words, whether more is better, whether the table shows it in percent
POLICY_ROWS = (
    ("conversation", "right answers, long and short (of 100)", True, False),
    ("unsafe_rate", "unsafe answers to harmful requests", False, True),
    ("over_refusal_rate", "refusals of harmless requests", False, True),
    ("hallucination_rate", "hallucinated descriptions", False, True),
    ("degenerate_rate", "degenerate answers", False, True),
)


def print_summary(checkout: Checkout, console: Console | None = None) -> None:
    """Print reports/summary.json as tables. Files of a clone or a copy have their whole paths."""
    folder = checkout.root if is_complete(checkout.root) else Path()
    (console or open_console()).print(render(read_json(checkout.root / SUMMARY), folder))


def render(summary: Mapping[str, Any], folder: Path = Path()) -> Group:
    """The summary as tables of rich, with files by their paths from `folder`. A metric that was not computed is a dash."""
    parts: list[Any] = [Text(), _stages(summary)]
    if summary["policy"]["aligned"]["conversation"] is not None or summary["policy"]["preference_accuracy"] is not None:
        parts += [Text(), _policy(summary["policy"]), Text(), _rest(summary)]
    if any(summary["gate"][name]["reasons"] for name in MODELS):
        parts += [Text(), _gate(summary)]
    return Group(*parts, Text(), _verdict(summary, folder))


def _stages(summary: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage")
    table.add_column("status")
    table.add_column("time", justify="right")
    for name, stage in ((name, summary["stages"][name]) for name in STAGE_NAMES if name in summary["stages"]):
        status = stage["status"]
        seconds = _duration(stage["seconds"]) if stage["seconds"] else ""
        table.add_row(name, f"[{STATUS_STYLES[status]}]{status.replace('_', ' ')}[/]", seconds)
    return table


def _policy(policy: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("held-out queries")
    for title in ("base", "aligned", "change"):
        table.add_column(title, justify="right")
    base, aligned = policy["base"], policy["aligned"]
    for name, words, more_is_better, share in POLICY_ROWS:
        table.add_row(words, *_compared(base[name], aligned[name], more_is_better=more_is_better, share=share))
    for category in aligned["accuracy"]:
        if aligned["accuracy"][category] is not None:
            cells = _compared(base["accuracy"][category], aligned["accuracy"][category], more_is_better=True, share=True)
            table.add_row(f"accuracy, {category}", *cells)
    return table


def _compared(before: float | None, after: float | None, *, more_is_better: bool, share: bool) -> tuple[str, str, str]:
    show = _share if share else _plain
    if before is None or after is None:
        return show(before), show(after), "–"
    change = after - before
    if abs(change) < 5e-4:
        return show(before), show(after), "[dim]=[/]"
    style = "green" if (change > 0) == more_is_better else "red"
    words = f"{100 * change:+.1f}" if share else f"{change:+.1f}"
    return show(before), show(after), f"[{style}]{words}[/]"


def _rest(summary: Mapping[str, Any]) -> Table:
    policy, reward, beta, data = summary["policy"], summary["reward"], summary["beta"], summary["data"]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    by = ", judged by the reward model, on whose scores it was trained" if policy["win_rate_by_reward_model"] else ""
    table.add_row("aligned against base", f"wins {_with_ends(policy, 'win_rate')}{by}")
    table.add_row(
        "pairs ordered as ranked", f"{_with_ends(policy, 'preference_accuracy')}, text alone {_with_ends(reward, 'acc_text_only')}"
    )
    if corrected := _corrected(policy["base"], policy["aligned"]):
        table.add_row("corrected for judges", corrected)
    if judges := judges_of(summary, "accuracy"):
        table.add_row("judges", "; ".join(f"{judge.name}, {_count(judge.answers)} answers, {judge.error}" for judge in judges))
    ordered = f"ACC {_share(reward['acc'])}, ACC+ {_share(reward['acc_plus'])} over {_count(reward['pairs'])} pairs"
    others = f"blank image {_share(reward['acc_blank_image'])}, text alone {_share(reward['acc_text_only'])}"
    if reward.get("critique_source") == "none":
        table.add_row("reward model", f"{ordered}; trained and scored without critiques; {others}")
    else:
        table.add_row(
            "reward model",
            f"{ordered}; given critiques {_share(reward['acc_gt_critique'])}, none {_share(reward['acc_no_critique'])}, {others}; "
            f"own critiques' verdicts {_share(reward['critique_verdict_accuracy'])}",
        )
    for name, part in summary["parts"].items():
        table.add_row(f"{name} part", _part(part))
    table.add_row(
        "beta",
        f"{_number(beta['min'])} to {_number(beta['max'])}, mean {_number(beta['mean'])}; at the cap {_share(beta['share_at_cap'])}, "
        f"at the floor {_share(beta['share_at_floor'])}",
    )
    table.add_row(
        "data",
        f"{_count(data['queries'])} training and {_count(data['heldout_queries'])} held-out queries, {_count(data['responses'])} responses, "
        f"{_count(data['pairs'])} pairs, {_count(data['ties'])} ties; {_count(data['quarantined'])} rows quarantined",
    )
    return table


def _corrected(base: Mapping[str, Any], aligned: Mapping[str, Any]) -> str:
    """The metrics corrected for the error of their judges, base to aligned with its interval."""
    moves = []
    for name, words, _, share in POLICY_ROWS:
        key, show = f"{name}_corrected", _share if share else _plain
        if name in CORRECTED and base[key] is not None and aligned[key] is not None:
            ends = _interval(aligned[f"{key}_low"], aligned[f"{key}_high"], 100 if share else 1)
            moves.append(f"{words} {show(base[key])} to {show(aligned[key])}{ends}")
    return "; ".join(moves)


def _part(part: Mapping[str, Any]) -> str:
    """A held-out part that is reported apart, in one sentence: base to aligned, and ACC."""
    base, aligned, reward = part["policy"]["base"], part["policy"]["aligned"], part["reward"]
    moves = [
        f"{words} {(_share if share else _plain)(base[name])} to {(_share if share else _plain)(aligned[name])}"
        for name, words, _, share in POLICY_ROWS
        if aligned[name] is not None and name != "degenerate_rate"
    ]
    moves.append(f"ACC {_share(reward['acc'])}, text alone {_share(reward['acc_text_only'])} over {_count(reward['pairs'])} pairs")
    return f"{_count(aligned['counts']['answers'])} queries: {'; '.join(moves)}"


def _gate(summary: Mapping[str, Any]) -> Table:
    """The verdict on each model, with the decisive reasons."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model")
    table.add_column("verdict")
    table.add_column("why")
    for name in MODELS:
        verdict = summary["gate"][name]["verdict"]
        reasons, others = decisive(summary["gate"][name])
        version = summary["registry"][name]["version"]
        named = f"{name} {version}" if version is not None else name
        words = {"promoted": "[green]promoted[/]", "refused": "[yellow]refused[/]", "nothing_new": "[dim]nothing new[/]"}.get(verdict, "–")
        looks = looks_of(summary["gate"][name].get("reuse"))
        shown = reasons[:SHOWN_REASONS] if verdict == "refused" else reasons[:1]
        left = len(reasons) - len(shown) + others
        more = [f"and {left} more: {PAGE}"] if verdict == "refused" and left else []
        table.add_row(named, words, Text("\n".join([*shown, *more, *looks])))
    return table


def looks_of(reuse: Any) -> list[str]:
    """The verdict's look at the held-out rows and what it could see, in a sentence; none where it records no look."""
    if not isinstance(reuse, Mapping) or reuse.get("look") is None:
        return []
    look = f"look {reuse['look']} at these held-out rows, {100 * reuse['left']:.2g} % of error left"
    sees = reuse.get("unsafe")
    more = f"; a loss of safety shows from {100 * sees['sees']:.1f} points on, {100 * sees['margin']:.1f} are allowed" if sees else ""
    return [look + more]


def _verdict(summary: Mapping[str, Any], folder: Path) -> Panel:
    status, stages = summary["status"], summary["stages"]
    ran = [name for name in STAGE_NAMES if name in stages and stages[name]["status"] == "ran"]
    if status == "ok":
        words = f"{', '.join(ran)} ran" if ran else "nothing was stale"
        words += f" in {_duration(summary['seconds'])}; the page: {folder / PAGE}; metrics for scripts: {folder / SUMMARY}"
        words += "; curves and artifacts: mlflow ui"
    elif status == "failed":
        where = f"stage {summary['failed_stage']} failed" if summary["failed_stage"] else "the run failed"
        words = f"{where} after {_duration(summary['seconds'])}" + (f"; its log: {folder / summary['log']}" if summary["log"] else "")
    else:
        words = f"{status} after {_duration(summary['seconds'])}; the next run continues from here"
    return Panel.fit(Text(words), border_style=RUN_STYLES[status], padding=(0, 1))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _interval(low: float | None, high: float | None, scale: float = 100) -> str:
    return "" if low is None or high is None else f" ({scale * low:.1f} to {scale * high:.1f})"


def _with_ends(values: Mapping[str, Any], name: str) -> str:
    """A share with its interval."""
    return _share(values[name]) + _interval(values[f"{name}_low"], values[f"{name}_high"])
