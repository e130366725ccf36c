"""Builds the bundled data set: preference rows with their media, the judge's ground truth, the base, the data card and licenses.

- The build is deterministic: the same package and base give the same bytes. Each query seeds its own generator.
- Training queries ask about the package's training images, held-out queries about its test images. The build copies images byte for byte.
- The hard part of the held-out queries has wordings, verbs, things, objects and combinations of color and shape of its own.
- Half of the queries have a fully right answer among their responses. In the others the least wrong response ranks first.
- The build samples responses from the base, if it has one, and uses those whose faults the rules recognize. Rules make the other responses.
- The build writes each part into a temporary folder and swaps it in at the end, so that a reader sees whole parts.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import files as distribution_files
from pathlib import Path
from typing import Any, Literal

from components.checkout import Checkout
from components.errors import UserError
from components.files import write_atomic, write_json
from components.preferences.release import row_from_query
from demo.checkpoint import replace_folder
from demo.families import draw_task
from demo.images import Picture, load_pictures
from demo.noise import reverse_share
from demo.overlap import overlap
from demo.responses import Graded, bare_query, choose_responses, query_of
from demo.tasks import Task, seeded
from demo.wordings import Part

SEED = "easy-vqa preferences 2"

# Queries of each family. Held-out safety queries are many, so that a rate of unsafe or needlessly refused answers has power.
TRAIN = {
    "short_colour": 150,
    "short_shape": 110,
    "short_exists": 130,
    "short_place": 110,
    "long_description": 430,
    "mcq": 160,
    "video_colour": 110,
    "video_order": 90,
    "harmful": 150,
    "harmless": 90,
}
HELDOUT = {
    "short_colour": 65,
    "short_shape": 50,
    "short_exists": 60,
    "short_place": 45,
    "long_description": 180,
    "mcq": 80,
    "video_colour": 60,
    "video_order": 50,
    "harmful": 210,
    "harmless": 210,
}
HARD = {
    "short_colour": 20,
    "short_shape": 20,
    "short_exists": 20,
    "short_place": 20,
    "long_description": 50,
    "mcq": 30,
    "video_colour": 20,
    "video_order": 20,
    "harmful": 55,
    "harmless": 55,
}
HARD_COMBINATIONS = frozenset({("teal", "triangle"), ("blue", "circle"), ("brown", "rectangle"), ("black", "triangle")})
POOL: dict[Part, int] = {"train": 900, "heldout": 500, "hard": 200}  # at most so many images are those that a part is about
SIZES: Mapping[Part, dict[str, int]] = {"train": TRAIN, "heldout": HELDOUT, "hard": HARD}
LICENSE_NAME = "LICENSE.easy-vqa"


@dataclass(frozen=True)
class Planned:
    """A query before its responses."""

    id: str
    part: Part
    task: Task
    media: str

    @property
    def split(self) -> Literal["train", "heldout"]:
        """The split of the query's part."""
        return "train" if self.part == "train" else "heldout"


def pictures_of(part: Part) -> tuple[Picture, ...]:
    """The images that a part of the data asks about: only the hard part has those of `HARD_COMBINATIONS`."""
    pictures = load_pictures("train" if part == "train" else "test")
    return tuple(p for p in pictures if ((p.color, p.shape) in HARD_COMBINATIONS) == (part == "hard"))[: POOL[part]]


def plan_queries(part: Part, counts: dict[str, int]) -> list[Planned]:
    """The queries of a part: as many of each family as `counts` says, no prompt twice about the same media."""
    pictures = pictures_of(part)
    planned: list[Planned] = []
    prompts: set[tuple[str, str]] = set()
    for family, count in counts.items():
        accepted = attempt = 0
        while accepted < count:
            attempt += 1
            chance = seeded(f"{SEED} {part} {family} {attempt}")
            task = draw_task(family, pictures, chance, part)
            media = media_path(task)
            if (media, task.prompt) in prompts:
                continue
            prompts.add((media, task.prompt))
            planned.append(Planned(f"{family}-{part}-{accepted:04d}", part, task, media))
            accepted += 1
    return planned


def media_path(task: Task) -> str:
    """Where a task's image, or folder of frames, lies under the preferences folder."""
    name = "_".join(picture.name for picture in task.pictures)
    return f"video/{name}" if task.category == "video" else f"{task.category}/{name}.png"


def copy_media(planned: Sequence[Planned], folder: Path) -> None:
    """Copy the package's files, byte for byte."""
    for query in planned:
        target = folder / query.media
        if query.task.category == "video":
            target.mkdir(parents=True, exist_ok=True)
            for index, picture in enumerate(query.task.pictures, start=1):
                shutil.copyfile(picture.path, target / f"frame_{index:02d}.png")
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(query.task.pictures[0].path, target)


def build(checkout: Checkout, noise: float = 0.0) -> dict[str, Any]:
    """Build `data/` of `checkout`, sampling from its base; return the counts of the data card. Raises UserError without a base.

    `noise` is the share of rows whose ranking is reversed.
    """
    base = checkout.data / "base"
    if not (base / "config.json").is_file():
        raise UserError("data/base holds no checkpoint: pull it with `dvc pull data.dvc`, or train it with `mmalign demo train-base`")
    return build_data(checkout.data, base, noise=noise)


def build_data(out: Path, base: Path | None = None, *, sizes: Mapping[Part, dict[str, int]] = SIZES, noise: float = 0.0) -> dict[str, Any]:
    """Write the data set to the folder `out` and return its counts.

    `base` is a checkpoint to sample responses from; without one, rules make all responses. The build copies it to `out/base`.
    `sizes` sets the number of queries of each family in each part. `noise` is the share of each file's rows whose ranking is reversed, for a
    trial of noisy preferences. Raises UserError without the package `easy-vqa`, and for a `noise` that is no share.
    """
    if not 0 <= noise <= 1:
        raise UserError(f"--noise is {noise:g}: give the share of rankings to reverse, from 0 to 1")
    try:
        planned = [query for part, counts in sizes.items() for query in plan_queries(part, counts)]
    except ModuleNotFoundError as error:
        raise UserError("the package easy-vqa is not installed: run `make install`, or `pip install easy-vqa`") from error
    out.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".build-", dir=out))
    try:
        preferences, ground_truth = temporary / "preferences", temporary / "truth"
        copy_media(planned, preferences)
        sampled = _sample(planned, base, preferences)
        graded = [choose_responses(query.task, query.id, texts) for query, texts in zip(planned, sampled, strict=True)]
        queries = [query_of(q.id, q.part, q.task, q.media, g, noise=noise) for q, g in zip(planned, graded, strict=True)]
        train, heldout = (reverse_share([query for query in queries if query.split == split], noise) for split in ("train", "heldout"))
        for name, rows in (("data.jsonl", train), ("heldout.jsonl", heldout)):
            write_atomic(preferences / name, "".join(json.dumps(row_from_query(row), ensure_ascii=False) + "\n" for row in rows))
        write_atomic(
            ground_truth / "truth.jsonl",
            "".join(json.dumps(ground_truth_row(query), ensure_ascii=False) + "\n" for query in planned if query.split == "heldout"),
        )
        counts = {**count(planned, graded), "noise": noise, "overlap": overlap(train, heldout)}
        if base is not None and base.resolve() != (out / "base").resolve():
            shutil.copytree(base, temporary / "base")
            replace_folder(temporary / "base", out / "base")
        for part in (preferences, ground_truth):
            part.chmod(0o755)
            replace_folder(part, out / part.name)
        _copy_texts(out)
        write_json(out / "counts.json", counts)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return counts


def _sample(planned: Sequence[Planned], base: Path | None, preferences: Path) -> list[list[str]]:
    """The base's answers to each query; no answers without a base."""
    if base is None:
        return [[] for _ in planned]
    from demo.sampling import sample_answers

    return sample_answers(base, preferences, [bare_query(query.id, query.part, query.task, query.media) for query in planned])


def ground_truth_row(query: Planned) -> dict[str, Any]:
    """A query's row in truth.jsonl."""
    return {"id": query.id, "must": [list(wordings) for wordings in query.task.must], "must_not": list(query.task.must_not)}


def count(planned: Sequence[Planned], graded: Sequence[Sequence[Graded]]) -> dict[str, Any]:
    """Counts of the data card by split, and of the hard part, which the held-out counts contain."""
    pairs = list(zip(planned, graded, strict=True))
    return {
        "train": _count([(query, responses) for query, responses in pairs if query.split == "train"]),
        "heldout": _count([(query, responses) for query, responses in pairs if query.split == "heldout"]),
        "hard": _count([(query, responses) for query, responses in pairs if query.part == "hard"]),
    }


def _count(chosen: Sequence[tuple[Planned, Sequence[Graded]]]) -> dict[str, Any]:
    """Queries, responses, sampled responses, queries with a right answer, queries with a tie."""
    responses = [item for _, group in chosen for item in group]
    return {
        "queries": len(chosen),
        "categories": {
            name: sum(query.task.category == name for query, _ in chosen) for name in ("mcq", "long", "short", "safety", "video")
        },
        "harmful": sum(query.task.safety == "harmful" for query, _ in chosen),
        "harmless": sum(query.task.safety == "harmless" for query, _ in chosen),
        "responses": len(responses),
        "responses_sampled_from_base": sum(item.sampled for item in responses),
        "queries_with_right_answer": sum(any(item.answer.points == 0 for item in group) for _, group in chosen),
        "queries_with_tie": sum(len({item.answer.points for item in group}) < len(group) for _, group in chosen),
    }


def _copy_texts(out: Path) -> None:
    """Copy the data card and the licenses beside the data."""
    licence = next(file for file in distribution_files("easy-vqa") or () if Path(str(file)).name == "LICENSE")
    write_atomic(out / LICENSE_NAME, licence.read_binary())
    root = Path(__file__).parents[1]
    for source, name in ((root / "docs" / "data-card.md", "data-card.md"), (root / "LICENSE", "LICENSE")):
        if source.is_file():
            write_atomic(out / name, source.read_bytes())
