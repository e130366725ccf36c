"""All that a run refuses before it starts a stage: services, overrides, gate rules, base, data, graph and the preconditions of its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from components.checkout import Checkout
from components.config.overrides import changed_settings
from components.config.settings import Settings, load_settings
from components.files import write_atomic
from components.operations.preconditions.checks import require, require_base
from components.operations.preconditions.situation import Situation, stages_to_run
from components.operations.services.health import require_services
from components.registry.policy import POLICY_FILE, load_policy
from components.stages import StageName
from components.storage.data_version import DataState, check_removals, data_state
from components.storage.plan import Step, plan


@dataclass(frozen=True)
class Readiness:
    """A run that may start. `steps` is DVC's plan, None while data are yet to be fetched; `to_run` are stages whose commands may run."""

    settings: Settings
    state: DataState
    steps: Mapping[str, Step] | None
    to_run: tuple[StageName, ...]

    @property
    def is_current(self) -> bool:
        """Whether no stage is stale, and the data are committed."""
        return self.steps is not None and not self.state.differs and all(step.action == "skip" for step in self.steps.values())


def make_ready(
    checkout: Checkout,
    log: Callable[[str], None],
    *,
    overrides: Sequence[str] = (),
    stages: Sequence[StageName] = (),
    accept_data: bool = False,
    bundled_rows: bool = False,
) -> Readiness:
    """Check all, log warnings, then write the overrides into their files. Without `stages` all may run. The caller holds the run lock.

    Raises UserError.
    """
    require_services(checkout)
    texts = changed_settings(checkout.params, overrides)
    settings = load_settings(checkout.params, texts)
    load_policy(checkout.root / POLICY_FILE)
    require_base(Situation(checkout, settings))  # before data/ is hashed and the graph is read
    state = data_state(checkout)
    check_removals(state, accept=accept_data)
    # What data that are yet to fetch make stale shows once they are here.
    steps = None if state.missing and not accept_data else plan(checkout, texts.get(checkout.params))
    to_run = stages_to_run(steps, tuple(stages))
    require(Situation(checkout, settings, to_run, state, bundled_rows), log)
    for path, text in texts.items():
        write_atomic(path, text)
    return Readiness(settings, state, steps, to_run)
