"""Servers that stages will ask: keys are set, the judge answers, has its model, and costs less than the cap.

A stage would stop there after training. The servers of the trained models' texts come up during a run, so only their keys are checked.
"""

from __future__ import annotations

import os

from components.errors import UserError
from components.operations.doctor.findings import Finding, ok, problem, warning
from components.operations.preconditions.situation import Situation
from components.preferences.turns import transcript

PATIENCE_SECONDS = 5.0
SHOWN = 3
MILLION = 1e6


def servers(situation: Situation) -> Finding:
    """See the module."""
    names = _needed(situation)
    if not names:
        return ok("no stage asks a server")
    settings = situation.settings.endpoint
    for name in names:
        variable = getattr(settings, name).key
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
    if "judge" in names and (cost := _cost_of_comparing(situation)) > settings.max_cost:
        return warning(
            f"endpoint.judge: comparing the answers to the held-out rows costs up to about {cost:.2f}, and endpoint.max_cost is "
            f"{settings.max_cost:.2f}: `evaluate` would stop there, after training",
            "raise endpoint.max_cost, or hold out fewer rows",
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


def _cost_of_comparing(situation: Situation) -> float:
    """What the judge takes at most to compare both policies' answers in both orders, where no verdict is sure; 0 where the rows can't be read."""
    from components.endpoints.request import CHARACTERS_PER_TOKEN, Picture, Request
    from components.evaluation import judge_prompts as prompts
    from components.evaluation.chain import load_chain
    from components.evaluation.model_judge import FRAMES, MAX_TOKENS
    from components.operations.preconditions.gate_rules import Judging, heldout_queries

    settings, server = situation.settings, situation.settings.endpoint.judge
    try:
        judging = Judging(situation, load_chain(settings, situation.checkout))
        queries = [query for query in heldout_queries(situation)[0] if judging.prefers(query)]
    except UserError:
        return 0.0  # other checks name it
    answer = "x" * CHARACTERS_PER_TOKEN * settings.evaluate.max_new_tokens
    task, tokens = "preference", 0
    for query in queries:
        pictures = sum(FRAMES if kind == "video" else 1 for kind in query.kinds)
        values = {"question": transcript(query), "first": answer, "second": answer}
        request = Request.asking(prompts.text_for(task, values), MAX_TOKENS, (Picture("", str),) * pictures, system=prompts.SYSTEMS[task])
        tokens += request.prompt_tokens(settings.endpoint.image_tokens)
    return 2 * (tokens * server.input_price + len(queries) * MAX_TOKENS * server.output_price) / MILLION
