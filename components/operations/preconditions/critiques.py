"""The training rows feed `reward.critique_source`, and what is chosen goes with `critique.engine`."""

from __future__ import annotations

from components.config.reward import RewardSettings
from components.operations.doctor.findings import Finding, ok, problem
from components.operations.preconditions.situation import Situation
from components.preferences.expansions import FILE
from components.reward.critique_source import annotation_of_rows, choose_source, described, unfed


def critiques(situation: Situation) -> Finding:
    """The reward model can be trained on what `reward.critique_source` names; with `auto` the rows decide."""
    if "reward" not in situation.stages:
        return ok("no reward model is trained")
    rows = situation.checkout.preferences / "data.jsonl"
    if not rows.is_file():
        return ok("the rows come with the data, which the run fetches first")
    reward, annotation = situation.settings.reward, annotation_of_rows(rows)
    if not annotation.responses:
        return ok("no row can be read line by line: validation decides")
    refusal = unfed(reward, annotation)
    if refusal is not None:
        return problem(*refusal)
    chosen = choose_source(reward, annotation)
    if chosen.critique_source == "expanded" and not rows.with_name(FILE).is_file():
        return problem(f"reward.critique_source is expanded, but data/preferences/{FILE} is missing", "run `mmalign data expand` first")
    if chosen.critique_source == "none" and situation.settings.critique.engine == "endpoint":
        return problem(
            "critique.engine is endpoint, but the reward model is trained without critiques (reward.critique_source), so a server has none to "
            "write",
            "mmalign configure --set critique.engine=local",
        )
    return ok(f"the reward model is {described(chosen, annotation)}")


def chosen_source(situation: Situation) -> str | None:
    """The source of critiques that a run trains on; None where it trains no reward model, or the rows feed none."""
    rows = situation.checkout.preferences / "data.jsonl"
    reward: RewardSettings = situation.settings.reward
    if "reward" not in situation.stages or not rows.is_file():
        return None
    annotation = annotation_of_rows(rows)
    return None if not annotation.responses or unfed(reward, annotation) else choose_source(reward, annotation).critique_source
