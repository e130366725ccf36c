"""A checkout with a profile's checkpoint from the bed and rows about photographs, in which the real commands run the profile."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from benchmarks._slice import Slice, make_slice, write_rows
from components.cli.run.configure import PROFILES
from components.families.hub.published import table
from tests.checkout import ROOT
from tests.shapes.bed import build
from tests.shapes.photographs import save_photographs

# What a machine with two cores and five photographs can't follow; all else is as the profile sets it.
REDUCED: dict[str, dict[str, Any]] = {
    "validate": {"max_leaked_share": 1.0},  # the photographs stand in both files
    "training": {"ranks": 2, "threads": 1, "checkpoint_every": "1 step"},  # the profiles have 8 GPUs, or 1
    "reward": {"queries_per_step": 4},
    "alignment": {"queries_per_step": 4},
    "critique": {"ranks": 2, "threads": 1, "max_new_tokens": 6},
    "reference": {"ranks": 2, "threads": 1},
    "evaluate": {"ranks": 2, "threads": 1, "max_new_tokens": 6, "judges": ["rules", "reward_model"], "samples": 2},
    "stages": {name: {"gpus": 0} for name in ("reward", "critique", "reference", "align", "evaluate")},
}
QUESTIONS = ("What is in the picture?", "Describe it in a sentence.", "Which colors do you see?", "Is there a person?")
ANSWERS = (
    ("A cup of coffee on a saucer, seen from above.", "There is a cup.", "I can't tell."),
    ("It is 1,024 pixels wide.", "Nothing.", "Naïve answers — ça va? 很好。"),
)
SMALL_PHOTOGRAPHS = ("coffee.jpg", "rocket.jpg", "astronaut.jpg")


def rows(count: int, prefix: str, photographs: tuple[str, ...] = SMALL_PHOTOGRAPHS) -> list[dict[str, Any]]:
    """Rows in the release's format: photographs, a video of two frames, and text alone."""
    made = []
    for number in range(count):
        answers = ANSWERS[number % len(ANSWERS)]
        kind = "text" if number % 5 == 3 else "video" if number % 5 == 4 else "image"
        made.append(
            {
                "id": f"{prefix}{number}",
                "question": f"{QUESTIONS[number % len(QUESTIONS)]} ({prefix}{number})",
                "models_output": list(answers),
                "final_ranking": [1, 2, 3] if number % 2 else [2, 1, 2],
                "score_reasons": ["Right, and whole.", "Right, but short.", "It says nothing."],
                "image": f"photographs/{photographs[number % len(photographs)]}" if kind == "image" else "",
                "video": "clip" if kind == "video" else "",
            }
        )
    return made


def write_data(data: Path, train: int = 5, heldout: int = 5) -> None:
    """Write the rows with their media."""
    folder = data / "preferences"
    save_photographs(folder / "photographs", SMALL_PHOTOGRAPHS)
    save_photographs(folder / "clip", ("coffee.jpg", "rocket.jpg"))
    write_rows(folder / "data.jsonl", rows(train, "t"))
    write_rows(folder / "heldout.jsonl", rows(heldout, "h"))


def make_walk(folder: Path, profile: str, **changes: dict[str, Any]) -> Slice:
    """A checkout with the profile's data and the settings of `mmalign configure --profile`, but for REDUCED and `changes`."""
    base = Path(yaml.safe_load((ROOT / PROFILES / f"{profile}.yaml").read_text())["model"]["base"])
    (name,) = (name for name, published in table().items() if published.profile == profile)
    bed = build(name, folder / "bed" / base.name, head=8)
    made = make_slice(folder, bed, write_data, {})
    shutil.rmtree(made.root / "data/base")  # the checkout has the profile's base alone
    words = [f"{section}.{key}={value}" for section, keys in _merged(REDUCED, changes).items() for key, value in _leaves(keys)]
    for command in (
        ["model", "fetch", str(bed)],
        ["configure", "--profile", profile],
        ["configure", *(word for value in words for word in ("--set", value))],
    ):
        completed = made.mmalign(*command)
        assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-4000:]
    return made


def _merged(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {section: one.get(section, {}) | other.get(section, {}) for section in {**one, **other}}


def _leaves(keys: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (f"{key}.{inner}", leaf) if isinstance(value, dict) else (key, value)
        for key, value in keys.items()
        for inner, leaf in (value.items() if isinstance(value, dict) else [("", value)])
    ]
