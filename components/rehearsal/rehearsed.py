"""What was rehearsed in this checkout: whether a run needs a rehearsal, and the rates that the plan uses from then on."""

from __future__ import annotations

import json
import time

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.files import digest_bytes, digest_file, read_json, write_json
from components.processes.host import available_memory
from components.rehearsal.architectures import find_architecture
from components.rehearsal.devices import Machine
from components.rehearsal.parameters import Architecture
from components.rehearsal.plan import TRAINING, with_planned_source
from components.rehearsal.rate import find_rate, rate_key, store_training_rate
from components.rehearsal.rehearse import Rehearsal
from components.rehearsal.workload import read_workload

LONG_SECONDS = 30 * 60
ASSUMED_GPU, ASSUMED_THREAD = 150e12, 10e9  # operations a second, where no rate was measured


def key_of(checkout: Checkout, settings: Settings, model: Architecture, machine: Machine) -> str:
    """A digest of base, machine and the settings that memory depends on, with the source of critiques that was chosen."""
    config = checkout.root / settings.model.base / "config.json"
    sections = [
        settings.training.model_dump(
            mode="json", exclude={"checkpoint_every", "keep_checkpoints", "seed", "weight_decay", "max_grad_norm"}
        ),
        settings.features.model_dump(mode="json"),
        [settings.reward.queries_per_step, settings.reward.critique_source, settings.alignment.queries_per_step],
        *(section.model_dump(mode="json") for section in (settings.critique, settings.reference)),
        [settings.evaluate.max_new_tokens, settings.evaluate.batch_size, settings.evaluate.ranks, settings.evaluate.zero_inference],
        settings.model.max_length,
        settings.model.max_frames,
    ]
    total = machine.memory if machine.kind == "gpu" else available_memory()[1]
    base = digest_file(config) if config.is_file() else ""
    return digest_bytes(base, rate_key(settings, model, machine.name), str(total >> 30), json.dumps(sections, sort_keys=True))


def record(checkout: Checkout, rehearsal: Rehearsal) -> None:
    """Keep that it was rehearsed, and the rates of both trainings."""
    settings, machine = rehearsal.settings, rehearsal.machine
    model, _ = find_architecture(settings, checkout)
    path = checkout.rehearsals
    entries = read_json(path) if path.is_file() else {}
    day = time.strftime("%Y-%m-%d")
    write_json(path, entries | {key_of(checkout, settings, model, machine): {"day": day, "fits": rehearsal.fits}})
    for stage in TRAINING:
        metrics = rehearsal.trials[stage].metrics if stage in rehearsal.trials else None
        if rehearsal.fits and metrics is not None and metrics.tokens_per_second is not None:
            store_training_rate(checkout, settings, stage, metrics.tokens_per_second)


def needs_rehearsal(checkout: Checkout, settings: Settings, machine: Machine) -> bool:
    """Whether a run may take longer than LONG_SECONDS with a base, machine or settings that were not rehearsed.

    A base whose sizes are unknown needs none: its time can't be told, and the stages report what is wrong with it.
    """
    try:
        return not is_rehearsed(checkout, settings, machine) and expected_seconds(checkout, settings, machine) > LONG_SECONDS
    except UserError:
        return False


def expected_seconds(checkout: Checkout, settings: Settings, machine: Machine) -> float:
    """Seconds of both trainings, at the measured rate or at an assumed one: no more than an order of magnitude."""
    model, _ = find_architecture(settings, checkout)
    workload = read_workload(checkout, settings, model)
    seconds = 0.0
    for stage, epochs in (("reward", settings.reward.epochs), ("align", settings.alignment.epochs)):
        tokens = workload.tree_tokens * workload.queries * epochs / settings.training.ranks
        rate = find_rate(checkout, settings, model, machine, stage)
        assumed = ASSUMED_GPU if machine.kind == "gpu" else ASSUMED_THREAD * settings.training.threads
        seconds += tokens / (rate.tokens_per_second if rate is not None else assumed / model.flops_per_token(backward=True))
    return seconds


def is_rehearsed(checkout: Checkout, settings: Settings, machine: Machine) -> bool:
    """Whether these settings fitted this machine with this base before."""
    model, _ = find_architecture(settings, checkout)
    path = checkout.rehearsals
    if not path.is_file():
        return False
    chosen = with_planned_source(settings, read_workload(checkout, settings, model))
    return bool(read_json(path).get(key_of(checkout, chosen, model, machine), {}).get("fits"))
