"""The table of stages, tasks and processes: the only place where a module is named by a string.

- `mmalign stage NAME` calls the function of a stage; a stage hands its tasks to ranks by their names here; processes are started by theirs.
- Closures of code are computed from this table, so a stage is stale exactly when code that it can reach means something else.
- `make lint` checks that every entry can be resolved, and that no other file names a module by a string.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any, Literal, get_args

StageName = Literal["validate", "reward", "critique", "reference", "align", "evaluate"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)


@dataclass(frozen=True)
class Stage:
    """A stage's function as "module:function", the sections of settings that it may read, and the tasks that it spreads over ranks."""

    function: str
    sections: tuple[str, ...]
    tasks: tuple[str, ...] = ()


STAGES: dict[StageName, Stage] = {
    "validate": Stage("components.validation.stage:run", ("model", "features", "validate", "reward")),
    "reward": Stage("components.reward.stage:run", ("model", "training", "features", "reward", "critique"), ("reward",)),
    "critique": Stage("components.critique.stage:run", ("model", "training", "features", "reward", "critique", "endpoint"), ("critique",)),
    "reference": Stage(
        "components.alignment.reference_stage:run", ("model", "training", "features", "reference", "alignment"), ("reference",)
    ),
    "align": Stage(
        "components.alignment.stage:run",
        ("model", "training", "features", "reward", "reference", "alignment"),
        ("align", "policy_log_probs"),
    ),
    "evaluate": Stage(
        "components.evaluation.stage:run",
        ("model", "training", "features", "reward", "critique", "alignment", "evaluate", "endpoint"),
        ("policy_answers", "reward_scores"),
    ),
}

# Stages that check and pass on data. New code or a new setting of them seldom changes what they pass on.
CHECKS: tuple[StageName, ...] = ("validate",)

# The class of each section of params.yaml.
SECTIONS = {
    "model": "components.config.model:ModelSettings",
    "training": "components.config.training:TrainingSettings",
    "features": "components.config.features:FeatureSettings",
    "validate": "components.config.validate:ValidateSettings",
    "reward": "components.config.reward:RewardSettings",
    "critique": "components.config.critique:CritiqueSettings",
    "reference": "components.config.reference:ReferenceSettings",
    "alignment": "components.config.alignment:AlignmentSettings",
    "evaluate": "components.config.evaluate:EvaluateSettings",
    "endpoint": "components.config.endpoint:EndpointSettings",
}

# The class of each section of ops.yaml, on which no result depends.
OPS_SECTIONS = {
    "stages": "components.config.ops:StagesSettings",
    "services": "components.config.ops:ServicesSettings",
    "deployments": "components.config.ops:DeploymentSettings",
    "notices": "components.config.ops:NoticeSettings",
    "clean": "components.config.ops:CleanSettings",
}

# What each rank of a training runs, called with a TrainingRank; what builds the tasks of an inference, from (settings, checkout, arguments).
TRAINING = {"reward": "components.reward.stage:train", "align": "components.alignment.stage:train"}
INFERENCE_TASKS = {
    "critique": "components.critique.task:build",
    "reference": "components.alignment.reference_task:build",
    "policy_log_probs": "components.alignment.policy_task:build",
    "policy_answers": "components.evaluation.tasks:policy_tasks",
    "reward_scores": "components.evaluation.tasks:reward_tasks",
    "reward_bench": "components.benches.reward_tasks:build",
}

# Modules that a stage with tasks starts as processes: part of its closure.
PROCESSES = {
    "torchrun": "components.engine.launcher",
    "worker": "components.engine.worker",
    "build_ops": "components.engine.ops",
}

# Modules that are started as processes and that no stage's result depends on, or that its stage imports too (`decoding`).
PROGRAMS = {
    "decoding": "components.validation.decoding",
    "cli": "components.cli.main",
    "unchanged": "components.cli.run.unchanged",
    "dvc": "components.storage.dvc_process",
    "flow": "flows.launch",
    "prefect_server": "flows.server",
    "mlflow_server": "components.operations.services.mlflow_server",
    "service": "components.operations.services.programs",
    "monitor": "flows.monitor",
    "reevaluate": "components.evaluation.reevaluate",
    "trial": "components.rehearsal.trial",
}

# Modules and packages that no closure enters, each with the reason why no result depends on it.
OUTSIDE = {
    "components.closures": "computes the digests; what it computes is the digest itself",
    "components.meaning": "reads files for the digests, as above",
    "components.stages": "the stage's own row of its tables is part of the stage's digest; the other rows are of other stages",
    "components.tracking": "records what a stage made, after it is made",
    "components.storage": "holds bytes under their hash or key and returns them unchanged",
    "components.processes": "supervises, locks, redacts and writes log lines; it may end a stage, never change what one makes",
    "components.config.mistakes": "words the refusal of settings that no stage then sees",
}


def row(stage: StageName) -> list[str]:
    """All that the tables say of one stage: "module:function" of its function, tasks and sections, and the modules of
    the processes, where it has tasks."""
    tasks = STAGES[stage].tasks
    return [
        STAGES[stage].function,
        *(table[task] for task in tasks for table in (TRAINING, INFERENCE_TASKS) if task in table),
        *(PROCESSES.values() if tasks else ()),
        *(SECTIONS[section] for section in STAGES[stage].sections),
    ]


def load(name: str) -> Any:
    """The object that "module:attribute" names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def module(process: str) -> str:
    """The module of a process, by its name in PROCESSES or PROGRAMS."""
    return {**PROCESSES, **PROGRAMS}[process]


def command(process: str) -> list[str]:
    """The start of the command line of a process in PROCESSES or PROGRAMS, run by this interpreter."""
    return [sys.executable, "-m", module(process)]
