"""The checks of `mmalign doctor`, by the names that scripts use."""

from __future__ import annotations

from components.operations.doctor import checkout, environment, leftovers, machine, reach, services, team
from components.operations.doctor.findings import Check

CHECKS: dict[str, Check] = {
    "python": environment.python_version,
    "packages": environment.packages,
    "version pins": environment.version_pins,
    "compiler": environment.compiler,
    "ninja": environment.ninja,
    "deepspeed op": environment.cpu_op,
    "torch": environment.torch_state,
    "cores": machine.cores,
    "memory": machine.memory,
    "shared memory": machine.shared_memory,
    "disk": machine.disk,
    "git": checkout.git,
    "settings": checkout.settings,
    "base model": checkout.base_model,
    "data": checkout.data,
    "dvc": checkout.dvc,
    "remotes": reach.remotes,
    "mlflow": services.mlflow_store,
    "pickled models": services.pickled_models,
    "waiting records": services.waiting_records,
    "prefect": services.prefect,
    "services": team.services,
    "passwords": team.passwords,
    "ports": team.ports,
    "deployments": team.deployments,
    "notices": team.notices,
    "clock": reach.clock,
    "dvc locks": leftovers.dvc_locks,
    "processes": leftovers.processes,
    "scratch": leftovers.scratch,
}
BESIDE = frozenset({"torch"})  # these wait for a child process, while the other checks run
