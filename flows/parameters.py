"""What may be set for one run of a deployment: the form on Prefect's page is made of it, and its server refuses what does not fit.

The server checks values against the JSON schema before anything runs: an unknown parameter, stage or settings key is refused with its name.
The flow checks again by the settings of its own checkout, which may be newer than the schema.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from components.config.settings import known_keys
from components.stages import StageName

# A list in params.yaml may be addressed by its key alone; what follows the first = is YAML.
OVERRIDE = f"^({'|'.join(re.escape(key) for key in known_keys())})=.+$"

MISTAKE = "Mistake"  # name of the failed state whose cure is in a person's hands

Override = Annotated[str, StringConstraints(pattern=OVERRIDE)]


class NightParameters(BaseModel):
    """One run of the pipeline."""

    model_config = ConfigDict(extra="forbid")

    overrides: list[Override] = Field(
        default_factory=list,
        description="Settings, each as key=value, such as alignment.beta=0.2. With source `checkout` they are written into its params.yaml "
        "and stay there, as with `mmalign run --set`; with `git` they hold for this run.",
    )
    stages: list[StageName] = Field(default_factory=list, description="Run only these stages, if they are stale; none means all.")
    source: Literal["checkout", "git"] = Field(
        default="checkout",
        description="`checkout`: the folder that was deployed from, as it is. `git`: a clone made for this run, which no edit disturbs.",
    )
    ref: str | None = Field(default=None, description="Branch, tag or commit for source `git`; by default the branch that is checked out.")
    repository: str | None = Field(
        default=None, description="Address or folder to clone for source `git`; by default the repository that was deployed from."
    )
    promote: bool = Field(default=True, description="Whether models that pass the gate become champions. If not, none is judged.")
    accept_data: bool = Field(default=False, description="Whether removed files of data/ are part of the new data version.")
    only_new_data: bool = Field(default=False, description="End at once where the data are those of the last finished run.")
    goes_on_from: str | None = Field(default=None, description="Set by `mmalign resume`: the run whose clone this one goes on in.")
    recovers: str | None = Field(default=None, description="Set by the automation that starts a crashed run again: that run's id.")


def parameter_schema(model_schema: dict[str, Any]) -> dict[str, Any]:
    """Prefect's schema of the flow's parameters, closed against names that the flow does not have."""
    return {**model_schema, "additionalProperties": False}
