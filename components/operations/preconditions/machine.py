"""What the machine must have for the stages that will run."""

from __future__ import annotations

from components.operations.doctor.findings import Finding, ok, problem
from components.operations.preconditions.situation import Situation
from components.processes.slots.gpus import visible_gpus


def gpus(situation: Situation) -> Finding:
    """The machine has as many GPUs as each stage that will run takes."""
    wanted = {stage: situation.settings.stages[stage].gpus for stage in situation.stages}
    if not any(wanted.values()):
        return ok("no stage takes a GPU")
    number = len(visible_gpus())
    beyond = {stage: count for stage, count in wanted.items() if count > number}
    if beyond:
        counts = ", ".join(f"{stage} {count}" for stage, count in beyond.items())
        return problem(
            f"stages take more GPUs than the {number} that are visible here (stages.NAME.gpus: {counts})",
            "use a machine with more GPUs, or a profile for fewer (mmalign configure --list)",
        )
    return ok(f"{number} GPU{'s' if number != 1 else ''} visible, at most {max(wanted.values())} a stage")
