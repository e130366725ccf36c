"""The training rows feed `reward.critique_source`, and what is chosen goes with `critique.engine`."""

from __future__ import annotations

from components.operations.doctor.findings import Finding, ok, problem
from components.operations.preconditions.situation import Situation
from components.reward.critique_source import choose_source, described, unfed


def critiques(situation: Situation) -> Finding:
    """The reward model can be trained on what `reward.critique_source` names; with `auto` the rows decide."""
    if "reward" not in situation.stages:
        return ok("no reward model is trained")
    reward, annotation = situation.settings.reward, situation.annotation
    if annotation is None:
        return ok("no row can be read yet: the run decides once they are validated")
    refusal = unfed(reward, annotation)
    if refusal is not None:
        return problem(*refusal)
    chosen = choose_source(reward, annotation)
    if chosen.critique_source == "expanded":
        from components.preferences.expansions import FILE

        if not (situation.checkout.preferences / FILE).is_file():
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
    if "reward" not in situation.stages or situation.annotation is None:
        return None
    reward, annotation = situation.settings.reward, situation.annotation
    if unfed(reward, annotation):
        return None
    return choose_source(reward, annotation).critique_source
