"""What the sections of all stages that train nothing share."""

from __future__ import annotations

from components.config.section import Positive, Section


class InferenceSettings(Section):
    """How a stage that trains nothing is spread over processes."""

    ranks: Positive
    threads: Positive
    zero_inference: bool
