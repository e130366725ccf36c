"""What a reward model is trained on: `reward.critique_source`, and what `auto` chooses by the training rows.

    none       no response has a critique: the score head reads the response itself, and no critique is learned or written
    mixed      at least `reward.least_annotated_share` of the responses have one
    refused    a smaller part has one: people choose

The choice, and not `auto`, is part of every key and of the model's own file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.checkout import Checkout
from components.config.reward import RewardSettings
from components.config.settings import Settings
from components.errors import UserError
from components.preferences.json_rows import read_rows

FIELD = "score_reasons"  # of a row: a critique for each response


@dataclass(frozen=True)
class Annotation:
    """How many training responses there are, and how many have a critique."""

    responses: int
    critiques: int

    @property
    def share(self) -> float:
        """Of the responses that have a critique; 0 without responses."""
        return self.critiques / self.responses if self.responses else 0.0


def unfed(reward: RewardSettings, annotation: Annotation) -> tuple[str, str] | None:
    """What is wrong where the rows can't feed the source, or `auto` can't choose, and what to do; None where all is well."""
    source = reward.critique_source
    if source == "auto" and 0 < annotation.share < reward.least_annotated_share:
        return (
            f"{annotation.critiques:,} of {annotation.responses:,} training responses ({annotation.share:.1%}) have a critique, fewer than "
            f"reward.least_annotated_share ({reward.least_annotated_share:g}), so reward.critique_source auto chooses nothing",
            "set reward.critique_source to none (the model is trained without critiques) or to mixed (a response without one is scored on an "
            f"empty one), or reward.least_annotated_share to at most {annotation.share:.4f}",
        )
    if source in ("annotated", "mixed") and not annotation.critiques:
        return (
            f"reward.critique_source is {source}, but no training response has a critique ({FIELD})",
            "set reward.critique_source to auto, which then trains without critiques, or add critiques to data/preferences/data.jsonl",
        )
    return None


def choose_source(reward: RewardSettings, annotation: Annotation) -> RewardSettings:
    """`reward` with the source that is trained. Raises UserError where the rows can't feed it, or `auto` can't choose.

    The share by which `auto` chooses is 0 in the result, since nothing depends on it any more.
    """
    refusal = unfed(reward, annotation)
    if refusal is not None:
        raise UserError(": ".join(refusal))
    source = reward.critique_source
    if source == "auto":
        source = "mixed" if annotation.critiques else "none"
    return reward.model_copy(update={"critique_source": source, "least_annotated_share": 0.0})


def with_source(settings: Settings, checkout: Checkout) -> Settings:
    """`settings` with the source that is trained on the validated training rows. Raises UserError as `choose_source`."""
    return settings.model_copy(update={"reward": choose_source(settings.reward, validated_annotation(checkout.queries("train")))})


def described(chosen: RewardSettings, annotation: Annotation) -> str:
    """The chosen source in words."""
    count = f"{annotation.critiques:,} of {annotation.responses:,} training responses have a critique"
    if chosen.critique_source == "none":
        return f"trained without critiques (none): it scores a response alone; {count}"
    return f"trained on critiques ({chosen.critique_source}); {count}"


def validated_annotation(table: Path) -> Annotation:
    """The counts of a table of validated queries."""
    responses = pc.list_flatten(pq.read_table(table, columns=["responses"])["responses"])
    critiques = pc.struct_field(responses, "critique")
    return Annotation(len(responses), int(pc.sum(pc.greater(pc.utf8_length(critiques), 0)).as_py() or 0))


def annotation_of_row(row: Mapping[str, Any]) -> Annotation:
    """The counts of a row as a file has it; validation refuses what is no list of texts."""
    outputs, reasons = row.get("models_output"), row.get(FIELD)
    critiques = sum(isinstance(reason, str) and bool(reason.strip()) for reason in reasons) if isinstance(reasons, list) else 0
    return Annotation(len(outputs) if isinstance(outputs, list) else 0, critiques)


def annotation_of_rows(path: Path) -> Annotation:
    """The counts of a file of rows; what is no JSON object is validation's."""
    counts = [annotation_of_row(line.row) for line in read_rows(path) if line.row is not None]
    return Annotation(sum(one.responses for one in counts), sum(one.critiques for one in counts))
