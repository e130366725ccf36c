"""Bad rows as files, each with the field and the reason by which validation must refuse it.

A file of a folder is JSON Lines; an object is a poison: `name`, the expected `field` and a part of the expected `reason`, and what to write:
`row` (fields over those of a good row, less those that `remove` names), `line` (a line as text), `hex` (a line as bytes), or `twice` (the changes
of a second row, after the same good row). Media that rows may name: good.png, torn.png, text.png, zero.png, thin.png, and the folders frames,
torn_frames and empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.validation.intake import Intake

FOLDER = Path(__file__).resolve().parent / "poisons"


@dataclass(frozen=True)
class Poison:
    """A bad row, and what its refusal must say."""

    name: str
    field: str
    reason: str
    lines: tuple[bytes, ...]


def good_row(number: int, name: str = "good") -> dict[str, Any]:
    """A row that validation accepts."""
    return {
        "id": f"{name}-{number}",
        "question": f"What is in picture {number} of {name}?",
        "models_output": ["A dog.", "A cat that sleeps.", "Nothing."],
        "final_ranking": [1, 2, 3],
        "faithfulness": [5, 2, 1],
        "helpfulness": [5, 2, 1],
        "ethical": [5, 5, 5],
        "score_reasons": ["Right.", "It is a dog.", "It sees nothing."],
    }


def read_poisons(folder: Path, pattern: str = "*.jsonl") -> list[Poison]:
    """The poisons of all files in a folder, or of those whose names match."""
    return [_poison(json.loads(line)) for file in sorted(folder.glob(pattern)) for line in file.read_text("utf-8").split("\n") if line]


def write_poisoned(folder: Path, poisons: list[Poison]) -> dict[int, Poison]:
    """Write data.jsonl with a good row after each poison, and the media; the poisons by the line that must be refused."""
    lines: list[bytes] = []
    places: dict[int, Poison] = {}
    for number, poison in enumerate(poisons):
        lines += poison.lines
        places[len(lines)] = poison
        lines.append(json.dumps(good_row(number)).encode())
    (folder / "data.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    _write_media(folder)
    return places


def compare(poisons: dict[int, Poison], intake: Intake) -> list[str]:
    """What is wrong with the refusals of a poisoned file, a sentence a row: a poison that was missed or misnamed, a good row that was lost."""
    refusals = {refusal.line: refusal for refusal in intake.refusals}
    return [*_missed(poisons, refusals), *(f"good row in line {line} is lost" for line in sorted(refusals.keys() - poisons.keys()))]


def _missed(poisons: dict[int, Poison], refusals: dict[int, Any]) -> Iterator[str]:
    for line, poison in poisons.items():
        refusal = refusals.get(line)
        if refusal is None:
            yield f"{poison.name}: line {line} is accepted"
        elif refusal.field != poison.field or poison.reason not in refusal.reason:
            yield f"{poison.name}: expected '{poison.field}: ...{poison.reason}...', not '{refusal.field}: {refusal.reason}'"


def _poison(values: dict[str, Any]) -> Poison:
    row = good_row(0, values["name"])
    lines: tuple[bytes, ...]
    if "line" in values:
        lines = (values["line"].encode(),)
    elif "hex" in values:
        lines = (bytes.fromhex(values["hex"]),)
    elif "twice" in values:
        lines = (json.dumps(row).encode(), json.dumps(row | values["twice"]).encode())
    else:
        changed = {name: value for name, value in (row | values["row"]).items() if name not in values.get("remove", ())}
        lines = (json.dumps(changed).encode(),)
    return Poison(values["name"], values["field"], values["reason"], lines)


def _write_media(folder: Path) -> None:
    noise = np.random.default_rng(0)
    picture: Callable[[int, int], Image.Image] = lambda width, height: Image.fromarray(  # noqa: E731 -- two numbers to a picture
        noise.integers(0, 255, (height, width, 3), dtype=np.uint8)
    )
    for name in ("frames", "torn_frames", "empty"):
        (folder / name).mkdir()
    picture(32, 32).save(folder / "good.png")
    picture(4, 1200).save(folder / "thin.png")
    torn = (folder / "good.png").read_bytes()[:300]
    for name in ("torn.png", "torn_frames/1.png"):
        (folder / name).write_bytes(torn)
    picture(32, 32).save(folder / "frames/1.png")
    (folder / "text.png").write_text("this is no picture")
    (folder / "zero.png").write_bytes(b"")
