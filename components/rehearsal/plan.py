"""The plan of a run: memory and time of every stage, whether it fits a device, and the changes that make it fit.

The plan tries changes one after the other, the cheapest first, each on top of the earlier ones, until all stages fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from components.checkout import Checkout
from components.config.settings import Settings, parse_settings
from components.rehearsal import memory
from components.rehearsal.architectures import find_architecture
from components.rehearsal.devices import DEVICES, DRIVER_SHARE, Machine
from components.rehearsal.memory import Device, Footprint
from components.rehearsal.parameters import Architecture
from components.rehearsal.rate import NO_RATE, Rate, find_rate
from components.rehearsal.workload import Workload, read_workload
from components.reward.critique_source import choose_source, unfed

TRAINING, INFERENCE = ("reward", "align"), ("critique", "reference", "evaluate")
ORDER = ("reward", "critique", "reference", "align", "evaluate")  # validate loads no model
Change = tuple[str, str]  # a key and its new value, for --set


@dataclass(frozen=True)
class Plan:
    """Everything that `mmalign plan --memory` prints."""

    settings: Settings
    model: Architecture
    source: str
    workload: Workload
    machine: Machine | None
    stages: dict[str, Footprint]
    seconds: dict[str, float | None]
    rate: Rate | None
    features_bytes: int
    cures: list[Change] | None  # None where all fits, [] where nothing helps
    notes: list[str]

    @property
    def needed(self) -> int:
        """Bytes of the stage that needs most of a device."""
        return max(used.device_bytes for used in self.stages.values())

    def budget(self) -> int | None:
        """Bytes that a rank may use: the device's, or its share of the host's memory."""
        return None if self.machine is None else _budget(self.machine, self.settings)


def make_plan(settings: Settings, checkout: Checkout, machine: Machine | None) -> Plan:
    """Plan all stages, with the source of critiques that the rows feed. `machine` None means that no device is named and none is visible.

    A source that the rows can't feed is planned as it is set, with a note. UserError where the model's sizes are unknown.
    """
    model, source = find_architecture(settings, checkout)
    workload = read_workload(checkout, settings, model)
    refusal = unfed(settings.reward, workload.annotation) if workload.annotation.responses else None
    if refusal is None:
        settings = with_planned_source(settings, workload)
    kind: Device = "gpu" if machine is None else machine.kind
    stages = footprints(model, settings, checkout, kind, workload)
    rates = {stage: find_rate(checkout, settings, model, machine, stage) for stage in TRAINING}
    cures = None
    if machine is not None and not _fits(stages, settings, machine):
        cures = _cure(model, settings, checkout, machine, workload)
    features = memory.feature_bytes(model, settings, workload.medium.cached) * workload.media if settings.features.cache else 0
    return Plan(
        settings,
        model,
        source,
        workload,
        machine,
        stages,
        {name: _seconds(name, settings, workload, model, rates.get(name, rates["align"])) for name in stages},
        rates["align"] or rates["reward"],
        features,
        cures,
        [*([": ".join(refusal)] if refusal else []), *_notes(settings, workload, features, stages)],
    )


def with_planned_source(settings: Settings, workload: Workload) -> Settings:
    """`settings` with the source of critiques that the rows feed; as they are where no rows exist yet. UserError where they feed none."""
    if not workload.annotation.responses:
        return settings
    return settings.model_copy(update={"reward": choose_source(settings.reward, workload.annotation)})


def footprints(model: Architecture, settings: Settings, checkout: Checkout, kind: Device, workload: Workload) -> dict[str, Footprint]:
    """The footprint of each stage in a rank."""
    stages = {}
    pixels = memory.pixel_bytes(model, workload.medium.patches) * workload.media if workload.queries else None
    for name in ORDER:
        if name in TRAINING:
            stages[name] = memory.training(model, settings, checkout, kind, stage=name, patches=workload.medium.patches)
        else:
            stages[name] = memory.inference(model, settings, kind, name)
        stages[name].host["pixels"] = memory.retained_pixels(settings, pixels)
    return stages


def stage_ranks(settings: Settings, stage: str) -> int:
    """Processes of a stage."""
    spread = {"critique": settings.critique, "reference": settings.reference, "evaluate": settings.evaluate}
    return spread[stage].ranks if stage in spread else settings.training.ranks


def smallest_device(needed: int) -> list[str]:
    """Names of the devices with so many bytes, the smallest first."""
    order = sorted(DEVICES, key=lambda name: DEVICES[name])
    return [name for name in order if needed <= DEVICES[name] * 2**30 * (1 - DRIVER_SHARE)]


def _budget(machine: Machine, settings: Settings, stage: str = "align") -> int:
    return machine.memory // stage_ranks(settings, stage) if machine.kind == "cpu" else machine.memory


def _fits(stages: dict[str, Footprint], settings: Settings, machine: Machine) -> bool:
    return all(stage_fits(used, settings, machine, name) for name, used in stages.items())


def stage_fits(used: Footprint, settings: Settings, machine: Machine, stage: str) -> bool:
    """Whether a stage fits. On a processor, device and host share one memory."""
    needed = used.device_bytes + (used.host_bytes if machine.kind == "cpu" else 0)
    return needed <= _budget(machine, settings, stage)


def changed(settings: Settings, changes: list[Change]) -> Settings:
    """Settings with some values replaced, as by --set."""
    values: dict[str, Any] = settings.model_dump(by_alias=True)
    for key, value in changes:
        *path, last = key.split(".")
        section = values
        for part in path:
            section = section[part]
        kind = type(section[last])
        section[last] = value == "true" if kind is bool else kind(value)
    return parse_settings(values, "settings with changes")


def _cure(model: Architecture, settings: Settings, checkout: Checkout, machine: Machine, workload: Workload) -> list[Change]:
    """The first changes in order that make all stages fit, or [] where none do. A change that saves nothing is skipped."""
    made: list[Change] = []
    for propose in (*_TRAINING_CURES, *_INFERENCE_CURES):
        while True:
            now = changed(settings, made)
            stages = footprints(model, now, checkout, machine.kind, workload)
            if _fits(stages, now, machine):
                return _last_of_each(made)
            over = {name for name, used in stages.items() if not stage_fits(used, now, machine, name)}
            change = propose(now, over, machine)
            if change is None:
                break
            after = changed(now, [change])
            saved = footprints(model, after, checkout, machine.kind, workload)
            if all(saved[name].device_bytes >= stages[name].device_bytes for name in over):
                break
            made.append(change)
    now = changed(settings, made)
    return _last_of_each(made) if _fits(footprints(model, now, checkout, machine.kind, workload), now, machine) else []


def next_change(settings: Settings, stage: str, checkout: Checkout, machine: Machine) -> Change | None:
    """The first change in order that applies and should save memory of `stage`; None where none is left."""
    model, _ = find_architecture(settings, checkout)
    workload = read_workload(checkout, settings, model)

    def needed(values: Settings) -> int:
        used = footprints(model, values, checkout, machine.kind, workload)[stage]
        return used.device_bytes + (used.host_bytes if machine.kind == "cpu" else 0)

    for propose in (*_TRAINING_CURES, *_INFERENCE_CURES):
        change = propose(settings, {stage}, machine)
        if change is not None and needed(changed(settings, [change])) < needed(settings):
            return change
    return None


def _last_of_each(changes: list[Change]) -> list[Change]:
    return list({key: (key, value) for key, value in changes}.values())


Propose = Callable[[Settings, set[str], Machine], Change | None]


def _training(key: str, propose: Callable[[Settings], str | None], *, gpu_only: bool = False) -> Propose:
    def change(settings: Settings, over: set[str], machine: Machine) -> Change | None:
        if not over & set(TRAINING) or (gpu_only and machine.kind == "cpu"):
            return None
        value = propose(settings)
        return None if value is None else (key, value)

    return change


def _inference(stage: str, key: str, propose: Callable[[Any], str | None]) -> Propose:
    def change(settings: Settings, over: set[str], machine: Machine) -> Change | None:  # noqa: ARG001 -- all proposals are called alike
        value = propose({"critique": settings.critique, "reference": settings.reference, "evaluate": settings.evaluate}[stage])
        return (f"{stage}.{key}", value) if stage in over and value is not None else None

    return change


def _halved(count: int) -> str | None:
    return str(count // 2) if count > 1 else None


# First the changes without cost, then those that cost time, then a change of the method (LoRA), then the host's memory.
_TRAINING_CURES: tuple[Propose, ...] = (
    _training("model.attention", lambda s: "flex_attention" if s.model.attention == "sdpa" else None, gpu_only=True),
    _training("features.cache", lambda s: None if s.features.cache or s.training.parts.tower > 0 else "true"),
    _training("training.batch_rows", lambda s: _halved(memory.rows_of(s)[0])),
    _training(
        "training.gradient_checkpointing", lambda s: {"none": "selective", "selective": "all"}.get(s.training.gradient_checkpointing)
    ),
    _training("training.row_tokens", lambda s: str(s.model.max_length) if s.training.row_tokens > s.model.max_length else None),
    _training(
        "training.zero_stage",
        lambda s: str(s.training.zero_stage + 1) if s.training.engine == "deepspeed" and s.training.zero_stage < 3 else None,
    ),
    _training(
        "training.offload",
        lambda s: "optimizer" if s.training.engine == "deepspeed" and s.training.offload == "none" else None,
        gpu_only=True,
    ),
    _training("model.lora.rank", lambda s: "16" if s.model.lora.rank == 0 else None),
    _training(
        "training.offload", lambda s: "all" if s.training.zero_stage == 3 and s.training.offload == "optimizer" else None, gpu_only=True
    ),
)
_INFERENCE_CURES: tuple[Propose, ...] = (
    _inference("critique", "batch_size", lambda section: _halved(section.batch_size)),
    _inference("evaluate", "batch_size", lambda section: _halved(section.batch_size)),
    *(
        _inference(stage, "zero_inference", lambda section: "true" if section.ranks > 1 and not section.zero_inference else None)
        for stage in INFERENCE
    ),
)


def _seconds(stage: str, settings: Settings, workload: Workload, model: Architecture, rate: Rate | None) -> float | None:
    """Seconds of a stage at the measured rate; None without a rate or rows, and for stages that generate at another rate.

    Critiques are generated unless the reward model is trained without them.
    """
    if rate is None or not workload.queries:
        return None
    tokens = workload.tree_tokens * workload.queries / stage_ranks(settings, stage)
    if stage in TRAINING:
        section = settings.reward if stage == "reward" else settings.alignment
        steps = tokens * section.epochs * workload.training_share
        if section.max_steps is not None:
            steps = min(steps, section.max_steps * section.queries_per_step * workload.tree_tokens / settings.training.ranks)
        return steps / rate.tokens_per_second
    scores_only = stage == "critique" and settings.reward.critique_source == "none"
    if stage == "reference" or scores_only:  # forward alone: a third of the operations
        return tokens / rate.tokens_per_second * model.flops_per_token(backward=False) / model.flops_per_token(backward=True)
    return None


def _notes(settings: Settings, workload: Workload, features: int, stages: dict[str, Footprint]) -> list[str]:
    notes = []
    if workload.queries and workload.tree_tokens > settings.training.row_tokens:
        notes.append(
            f"a query's tree has about {workload.tree_tokens:,.0f} tokens, and training.row_tokens is {settings.training.row_tokens}: "
            "a longer tree gets a separate row, and needs more memory than the plan says"
        )
    if features > settings.features.max_gb * 1e9:
        notes.append(
            f"the features of all media take {features / 1e9:,.1f} GB, and features.max_gb is {settings.features.max_gb:g}: "
            "the cache drops the least recently used, and the vision tower runs for them again; raise features.max_gb or set features.dtype bf16"
        )
    if workload.medium.tokens >= settings.model.max_length:
        notes.append(
            f"a medium has about {workload.medium.tokens:,} tokens, and model.max_length is {settings.model.max_length}: "
            "validation refuses such queries; raise model.max_length"
        )
    if settings.features.cache and settings.training.parts.tower > 0 and not settings.model.lora.rank:
        notes.append("training.parts.tower is above 0: the vision tower changes, so its features are not cached")
    if not workload.queries:
        notes.append("data/preferences has no rows: the plan has no times, and disk for features only a medium")
    host = max(used.host_bytes for used in stages.values()) * settings.training.ranks
    if settings.training.offload != "none":
        notes.append(f"offloading puts {host / 1e9:,.0f} GB into the host's memory, over {settings.training.ranks} ranks")
    return notes


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan for scripts; all sizes in bytes."""
    return {
        "model": {"family": plan.model.family, "source": plan.source, "parameters": {**plan.model.parts, "total": plan.model.total}},
        "trained_parameters": memory.trained_parameters(plan.model, plan.settings),
        "device": None if plan.machine is None else {"name": plan.machine.name, "kind": plan.machine.kind, "bytes": plan.machine.memory},
        "stages": {
            name: {
                "ranks": stage_ranks(plan.settings, name),
                "device": used.device,
                "device_bytes": used.device_bytes,
                "host": used.host,
                "host_bytes": used.host_bytes,
                "disk": used.disk,
                "fits": None if plan.machine is None else stage_fits(used, plan.settings, plan.machine, name),
                "seconds": plan.seconds[name],
            }
            for name, used in plan.stages.items()
        },
        "features": {
            "bytes_a_medium": memory.feature_bytes(plan.model, plan.settings, plan.workload.medium.cached),
            "media": plan.workload.media,
            "bytes": plan.features_bytes,
        },
        "critique_source": plan.settings.reward.critique_source,
        "workload": {"queries": plan.workload.queries, "tree_tokens": plan.workload.tree_tokens, "source": plan.workload.source},
        "changes": None if plan.cures is None else [f"{key}={value}" for key, value in plan.cures],
        "fits_known_devices": smallest_device(plan.needed),
        "rate": asdict(plan.rate) if plan.rate is not None else NO_RATE,
        "notes": plan.notes,
    }
