"""What a rehearsal comes to, in words."""

from __future__ import annotations

from components.rehearsal.rehearse import Rehearsal


def verdict(rehearsal: Rehearsal) -> str:
    """What the rehearsal comes to, in a sentence or two."""
    if rehearsal.fits:
        return f"all stages fit {rehearsal.machine.name}; rehearsed in {in_words(rehearsal.seconds)}"
    name, trial = next((name, trial) for name, trial in rehearsal.trials.items() if trial.refused is not None)
    sets = " ".join(f"--set {key}={value}" for key, value in rehearsal.changes or [])
    cure = (
        f"every stage passed with {sets}" if sets else "none of the changes that were tried helps: take a larger machine or a smaller base"
    )
    return f"{name} does not fit {rehearsal.machine.name}: {trial.refused}\n{cure}"


def in_words(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
