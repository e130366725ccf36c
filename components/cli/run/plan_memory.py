"""Prints the plan of memory, disk and time: one row a stage, then the verdict, changes and notes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from components.rehearsal.sizes import duration, size

if TYPE_CHECKING:
    from components.rehearsal.ledger import Volume
    from components.rehearsal.memory import Footprint
    from components.rehearsal.plan import Plan

# The columns of device memory, and the purpose that each shows; the rest is "other".
TITLES = {"weights": "weights", "gradients": "gradients", "optimiser": "optimiser", "activations": "activations", "working": "working"}


SHOWN_BYTES = 1000  # smaller entries are left out of the table


def render(plan: Plan, volumes: list[Volume], root: Path, *, here: bool) -> Group:
    """The plan as tables of rich, with the ledger of disk. `here` says whether the run is meant for this machine, and so for its disks."""
    tables: list[Table | Text] = [
        Text(),
        _device_table(plan),
        Text(),
        _stage_table(plan),
        Text(),
        _ledger_table(volumes, root, here=here),
        Text(),
    ]
    disks = [_volume(volume, root) for volume in volumes] if here else []
    return Group(_model(plan), *tables, _features(plan), _verdict(plan), *disks, *_cures(plan), *_notes(plan))


def _model(plan: Plan) -> Text:
    from components.rehearsal.memory import rows_of, trained_parameters

    model, settings = plan.model, plan.settings
    engine = settings.training
    parts = ", ".join(f"{part.replace('_', ' ')} {_count(count)}" for part, count in model.parts.items() if count)
    rows, length = rows_of(settings)
    split = f"ZeRO-{engine.zero_stage}" if engine.engine == "deepspeed" else "DDP"
    extras = [
        f"{engine.ranks} rank{'s' if engine.ranks > 1 else ''}",
        engine.precision,
        split,
        *([f"offload {engine.offload}"] if engine.offload != "none" else []),
        *([f"gradient checkpointing {engine.gradient_checkpointing}"] if engine.gradient_checkpointing != "none" else []),
        *([f"LoRA rank {settings.model.lora.rank}"] if settings.model.lora.rank else []),
        settings.model.attention,
        f"{rows} row{'s' if rows > 1 else ''} of {length:,} tokens",
    ]
    tied = ", head tied to it" if model.tied else ""
    return Text.assemble(
        ("model     ", "bold"),
        f"{model.family}, {_count(model.total)} parameters ({parts}{tied}), from {plan.source}\n",
        ("training  ", "bold"),
        f"{_count(trained_parameters(model, settings))} parameters; {', '.join(extras)}\n",
        ("data      ", "bold"),
        plan.workload.source,
    )


def _device_table(plan: Plan) -> Table:
    """A rank's memory on its device, a row a stage."""
    from components.rehearsal.plan import stage_fits

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("stage", *TITLES, "other", "a rank"):
        table.add_column(title, justify="left" if title == "stage" else "right", no_wrap=True)
    for name, used in plan.stages.items():
        total = size(used.device_bytes)
        if plan.machine is not None:
            total = f"[green]{total}[/]" if stage_fits(used, plan.settings, plan.machine, name) else f"[bold red]{total} ![/]"
        table.add_row(name, *(size(used.device.get(column, 0)) for column in TITLES.values()), size(_other(used)), total)
    return table


def _stage_table(plan: Plan) -> Table:
    """Ranks, the host's memory, disk and time, a row a stage."""
    from components.rehearsal.plan import stage_ranks
    from components.rehearsal.rate import NO_RATE

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("stage", "ranks", "host", "scratch", "model"):
        table.add_column(title, justify="left" if title == "stage" else "right", no_wrap=True)
    table.add_column("time", no_wrap=True)
    for name, used in plan.stages.items():
        disk = [size(used.disk.get(kind, 0)) for kind in ("checkpoints", "model")]
        seconds = plan.seconds[name]
        unknown = NO_RATE if plan.rate is None else "–"
        table.add_row(
            name, str(stage_ranks(plan.settings, name)), size(used.host_bytes), *disk, unknown if seconds is None else duration(seconds)
        )
    return table


def _ledger_table(volumes: list[Volume], root: Path, *, here: bool) -> Table:
    """What a run of all stages still writes, a row an entry; with several file systems of this machine, the row of each names its disk."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("a run still writes", overflow="fold")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
    for number, volume in enumerate(volumes, 1):
        for entry in volume.entries:
            if entry.bytes >= SHOWN_BYTES:
                disk = f" (disk {number})" if here and len(volumes) > 1 else ""
                table.add_row(entry.what, size(entry.bytes), f"{shown(entry.folder, root)}{disk}")
        table.add_row("together", size(volume.needed) if volume.needed else "nothing", "", style="bold")
    return table


def shown(folder: Path, root: Path) -> str:
    """A folder as seen from the checkout."""
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)


def _volume(volume: Volume, root: Path) -> Text:
    """Whether what a run still writes fits one file system."""
    where = shown(volume.entries[0].folder, root)
    if volume.lacking:
        words, style = f"does not fit the disk of {where}: {size(volume.free)} free, {size(volume.lacking)} more to free", "bold red"
    else:
        words, style = f"fits the disk of {where}, {size(volume.free)} free", "green"
    return Text.assemble(("disk      ", "bold"), (words, style))


def _other(used: Footprint) -> int:
    return sum(count for name, count in used.device.items() if name not in TITLES.values())


def _features(plan: Plan) -> Text:
    from components.rehearsal.memory import feature_bytes

    settings, workload = plan.settings, plan.workload
    one = feature_bytes(plan.model, settings, workload.medium.cached)
    if not settings.features.cache:
        features = f"not cached (features.cache false); the cache would take {size(one)} a medium"
    elif workload.media:
        features = f"of {workload.media:,} media, {size(one)} each: {size(plan.features_bytes)} of at most {settings.features.max_gb:g} GB"
    else:
        features = f"{size(one)} a medium, at most {settings.features.max_gb:g} GB"
    lines = Text.assemble(("features  ", "bold"), features)
    if plan.rate is not None:
        about = f"at {plan.rate.tokens_per_second:,.0f} tokens/s a rank, measured on {plan.rate.device} on {plan.rate.measured}"
        lines.append_text(Text.assemble("\n", ("time      ", "bold"), f"{about}; generation is not included"))
    return lines


def _verdict(plan: Plan) -> Text:
    from components.rehearsal.plan import smallest_device

    if plan.machine is None:
        names = smallest_device(plan.needed)
        where = f"fits {', '.join(names)}" if names else "fits no device in the list: name one with --device to see changes"
        words, style = f"no GPU is visible here, and none is named (--device); at {size(plan.needed)} a rank it {where}", "yellow"
    elif plan.cures is None:
        words, style = f"fits {plan.machine.name}, {size(plan.budget() or 0)} a rank", "green"
    else:
        words, style = f"does not fit {plan.machine.name}, {size(plan.budget() or 0)} a rank", "bold red"
    return Text.assemble(("device    ", "bold"), (words, style))


def _cures(plan: Plan) -> list[Text]:
    if plan.cures is None:
        return []
    if not plan.cures:
        words = "no change that the plan tries makes it fit: take a larger device, more ranks, or a smaller model"
    else:
        changes = " ".join(f"--set {key}={value}" for key, value in plan.cures)
        words = f"mmalign configure {changes}"
    return [Text.assemble(("to fit    ", "bold"), (words, "cyan"))]


def _notes(plan: Plan) -> list[Text]:
    return [Text.assemble(("note      ", "bold"), (note, "yellow")) for note in plan.notes]


def _count(number: int) -> str:
    for unit, word in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        if number >= unit:
            return f"{number / unit:.2f}".rstrip("0").rstrip(".") + f" {word}"
    return str(number)
