"""The servers that stages will ask: their keys are set, and the judge's server answers and has its model. A stage would stop there after all training.

The servers of the trained models' texts come up during a run, so that only their keys are checked.
"""

from __future__ import annotations

import os

from components.operations.doctor.findings import Finding, ok, problem, warning
from components.operations.preconditions.situation import Situation

PATIENCE_SECONDS = 5.0
SHOWN = 3


def servers(situation: Situation) -> Finding:
    """See the module."""
    names = _needed(situation)
    if not names:
        return ok("no stage asks a server")
    for name in names:
        variable = getattr(situation.settings.endpoint, name).key
        if variable and not os.environ.get(variable):
            return problem(
                f"endpoint.{name} takes its key from {variable}, which is not set: a stage would stop there, after training",
                f"export {variable}, or set endpoint.{name}.key",
            )
    if "judge" in names and (fault := _fault_of_judge(situation)) is not None:
        return warning(
            f"endpoint.judge: {fault}: `evaluate` would stop there, after training",
            "start the server before `evaluate`, or correct the setting",
        )
    return ok(f"keys and servers are there: {', '.join(names)}")


def _needed(situation: Situation) -> list[str]:
    settings, stages = situation.settings, situation.stages
    names = ["reward"] if "critique" in stages and settings.critique.engine == "endpoint" else []
    if "evaluate" in stages:
        names += ["base", "aligned"] if settings.evaluate.engine == "endpoint" else []
        names += ["judge"] if "model" in settings.evaluate.judges else []
    return names


def _fault_of_judge(situation: Situation) -> str | None:
    """Why the judge's server can't be asked; None where it can, as far as its list of models tells."""
    import httpx

    server = situation.settings.endpoint.judge
    headers = {"Authorization": f"Bearer {os.environ[server.key]}"} if server.key else {}
    try:
        response = httpx.get(f"{server.url}/models", headers=headers, timeout=PATIENCE_SECONDS)
        if response.status_code in {401, 403}:
            return f"{server.url} refuses the key ({response.status_code})"
        listed = [str(one["id"]) for one in response.json()["data"]] if response.is_success else []
    except httpx.HTTPError as error:
        return f"{server.url} does not answer ({type(error).__name__})"
    except (ValueError, KeyError, TypeError):
        return None  # the list of models is no part of what a judge is asked
    if listed and server.model not in listed:
        return f"{server.url} has no model '{server.model}', but {', '.join(listed[:SHOWN])}"
    return None
