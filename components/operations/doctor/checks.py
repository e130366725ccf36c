"""The checks of `mmalign doctor`, by the names that scripts use."""

from __future__ import annotations

from functools import partial

from components.checkout import Checkout
from components.operations.doctor import checkout, environment, leftovers, machine, reach, services, team
from components.operations.doctor.findings import Check, Finding, settings_of
from components.operations.preconditions.checks import PRECONDITIONS
from components.operations.preconditions.situation import Situation


def _precondition(name: str, checkout: Checkout) -> Finding:
    """A precondition of a run of all stages."""
    return PRECONDITIONS[name](Situation(checkout, settings_of(checkout)))


# Checks of Prefect's deployments are the caller's: only flows imports Prefect's client.
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
    "writable folders": machine.writable,
    "git": checkout.git,
    "settings": checkout.settings,
    "data": checkout.data,
    "dvc": checkout.dvc,
    **{name: partial(_precondition, name) for name in PRECONDITIONS},
    "remotes": reach.remotes,
    "mlflow": services.mlflow_store,
    "registered models": services.registered_models,
    "pickled models": services.pickled_models,
    "waiting records": services.waiting_records,
    "prefect": services.prefect,
    "services": team.services,
    "passwords": team.passwords,
    "ports": team.ports,
    "notices": team.notices,
    "clock": reach.clock,
    "dvc locks": leftovers.dvc_locks,
    "processes": leftovers.processes,
    "scratch": leftovers.scratch,
}
BESIDE = frozenset({"torch"})  # these wait for a child process, while the other checks run
