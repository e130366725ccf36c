"""The parameters of one run, from which Prefect makes the form of a deployment on its page.

The server checks them against their JSON schema before a run starts. It refuses an unknown parameter, stage or settings key and names it.
The flow checks them again by the settings of its checkout, which may be newer than the schema.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from components.config.settings import known_keys
from components.stages import StageName

# The key of a list addresses the whole list. The text after the first = is YAML.
OVERRIDE = f"^({'|'.join(re.escape(key) for key in known_keys())})=.+$"

# As `git check-ref-format` has it: no option, no refspec, no way up. `$(?!\n)` is the very end in Python and in a browser alike.
REF = r"^(?!@$)(?![-/.])(?!.*(?:\.\.|//|/\.|@\{|\.lock(?:/|$)))[^\x00-\x20\x7f~^:?*\[\\]+(?<![./])$(?!\n)"
REPOSITORY = r"^(?!-)[^\x00-\x1f\x7f]+$(?!\n)"
RUN_ID = r"^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$(?!\n)"

MISTAKE = "Mistake"  # name of the failed state that a person has to cure

Override = Annotated[str, StringConstraints(pattern=OVERRIDE)]
Ref = Annotated[str, StringConstraints(pattern=REF, max_length=250)]
Repository = Annotated[str, StringConstraints(pattern=REPOSITORY, max_length=2000)]
RunId = Annotated[str, StringConstraints(pattern=RUN_ID)]


class RunParameters(BaseModel):
    """One run of the pipeline."""

    model_config = ConfigDict(extra="forbid", regex_engine="python-re")

    overrides: list[Override] = Field(
        default_factory=list,
        description="Settings, each as key=value, such as alignment.beta=0.2. They hold for this run, which works in a folder of its own.",
    )
    stages: list[StageName] = Field(default_factory=list, description="Run only these stages, if they are stale; none means all.")
    source: Literal["checkout", "git"] = Field(
        default="checkout",
        description="`checkout`: the deployed folder as it is. `git`: a clone made for this run, which no edit changes.",
    )
    ref: Ref | None = Field(default=None, description="Branch, tag or commit for source `git`; by default the branch that is checked out.")
    repository: Repository | None = Field(
        default=None,
        description="Repository to clone for source `git`, one of `deployments.repositories`; by default the deployed one.",
    )
    promote: bool = Field(default=True, description="Whether models that pass the gate become champions. If not, none is judged.")
    accept_data: bool = Field(default=False, description="Whether removed files of data/ are part of the new data version.")
    bundled_rows: bool = Field(default=False, description="Whether another base than the bundled one may train on the bundled rows.")
    only_new_data: bool = Field(default=False, description="End at once if the last finished run had the same data.")
    goes_on_from: RunId | None = Field(default=None, description="`mmalign resume` sets it: the run in whose clone this run continues.")
    started: float | None = Field(default=None, description="`mmalign run` sets it: when it began, in seconds since the epoch.")
    recovers: RunId | None = Field(default=None, description="The automation that restarts a crashed run sets it: that run's id.")


def parameter_schema(model_schema: dict[str, Any]) -> dict[str, Any]:
    """Prefect's schema of the flow's parameters, which also refuses unknown parameters."""
    return {**model_schema, "additionalProperties": False}
