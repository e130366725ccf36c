"""What a verdict says of the data: held-out rows that training shares, and how the data differ from the champion's."""

from __future__ import annotations

from components.checkout import Checkout
from components.files import read_json
from components.registry.decision import Finding
from components.registry.drift import Drift, find_drift
from components.registry.versions import Version


def data_notes(checkout: Checkout, champion: Version | None) -> tuple[list[Finding], list[Drift]]:
    """Findings for the verdict, which refuse nothing, and the comparison with the champion's data, empty without a champion."""
    drifts, lacking = find_drift(checkout, champion) if champion is not None else ([], [])
    leak = _leakage(checkout)
    notes = [Finding("leakage", "note", leak)] if leak else []
    notes += [Finding("drift", "note", sentence) for sentence in (*(drift.sentence() for drift in drifts), *lacking)]
    return notes, drifts


def _leakage(checkout: Checkout) -> str | None:
    """The sentence on held-out rows that leak; None where none does, or validation did not count them."""
    path = checkout.artifact("validate", "metrics.json")
    metrics = read_json(path) if path.is_file() else {}
    leaked, rows = metrics.get("leaked_queries"), metrics.get("heldout_queries")
    if not leaked or not rows:
        return None
    return (
        f"{leaked} of {rows} held-out queries share a picture or a group with training: a model may answer those from memory, so that "
        "these results may be better than on new data"
    )
