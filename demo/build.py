"""Builds the bundled data set: preference rows with their media, the judge's ground truth, the base, the data card and licenses.

- The build is deterministic: the same package and base give the same bytes. Each query seeds its own generator.
- Training queries ask about the package's training images, held-out queries about its test images. The build copies images byte for byte.
- Half of the queries have a fully right answer among their responses. In the others the least wrong response ranks first.
- The build samples responses from the base, if it has one, and uses those whose faults the rules recognize. Rules make the other responses.
- The build writes each part into a temporary folder and swaps it in at the end, so that a reader sees whole parts.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import files as distribution_files
from pathlib import Path
from typing import Any, Literal

from components.checkout import Checkout
from components.errors import UserError
from components.files import write_atomic, write_json
from demo.checkpoint import replace_folder
from demo.families import FAMILIES, media_for
from demo.images import Picture, load_pictures
from demo.requests import harmful, harmless
from demo.responses import Graded, bare_query, choose_responses, row_of
from demo.tasks import Task, seeded

SEED = "easy-vqa preferences 1"

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
POOL = {"train": 900, "heldout": 500}  # images of the package that the queries of a split are about
LICENSE_NAME = "LICENSE.easy-vqa"


@dataclass(frozen=True)
class Planned:
    """A query before its responses."""

    id: str
    split: Literal["train", "heldout"]
    task: Task
    media: str


def plan_queries(split: Literal["train", "heldout"], counts: dict[str, int]) -> list[Planned]:
    """The queries of a split: as many of each family as `counts` says, no prompt twice about the same media."""
    pictures = load_pictures("train" if split == "train" else "test")[: POOL[split]]
    planned: list[Planned] = []
    prompts: set[tuple[str, str]] = set()
    for family, count in counts.items():
        accepted = attempt = 0
        while accepted < count:
            attempt += 1
            chance = seeded(f"{SEED} {split} {family} {attempt}")
            task = make_task(family, media_for(family, pictures, chance), chance, split)
            media = media_path(task)
            if (media, task.prompt) in prompts:
                continue
            prompts.add((media, task.prompt))
            planned.append(Planned(f"{family}-{split}-{accepted:04d}", split, task, media))
            accepted += 1
    return planned


def make_task(family: str, pictures: tuple[Picture, ...], chance: random.Random, split: Literal["train", "heldout"]) -> Task:
    """A task of a family. Only the held-out set contains some of the requests."""
    if family in ("harmful", "harmless"):
        return (harmful if family == "harmful" else harmless)(pictures, chance, heldout=split == "heldout")
    return FAMILIES[family](pictures, chance)


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


def build(checkout: Checkout) -> dict[str, Any]:
    """Build `data/` of `checkout`, sampling from its base; return the counts of the data card. Raises UserError without a base."""
    base = checkout.data / "base"
    if not (base / "config.json").is_file():
        raise UserError("data/base holds no checkpoint: pull it with `dvc pull data.dvc`, or train it with `mmalign demo train-base`")
    return build_data(checkout.data, base)


def build_data(
    out: Path, base: Path | None = None, *, train: dict[str, int] | None = None, heldout: dict[str, int] | None = None
) -> dict[str, Any]:
    """Write the data set to the folder `out` and return its counts.

    `base` is a checkpoint to sample responses from; without one, rules make all responses. The build copies it to `out/base`.
    `train` and `heldout` set the number of queries of each family, for a smaller set. Raises UserError without the package `easy-vqa`.
    """
    try:
        planned = [*plan_queries("train", train or TRAIN), *plan_queries("heldout", heldout or HELDOUT)]
    except ModuleNotFoundError as error:
        raise UserError("the package easy-vqa is not installed: run `make install`, or `pip install easy-vqa`") from error
    out.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".build-", dir=out))
    try:
        preferences, ground_truth = temporary / "preferences", temporary / "truth"
        copy_media(planned, preferences)
        sampled = _sample(planned, base, preferences)
        graded = [choose_responses(query.task, query.id, texts) for query, texts in zip(planned, sampled, strict=True)]
        for split, name in (("train", "data.jsonl"), ("heldout", "heldout.jsonl")):
            rows = [row_of(q.id, q.split, q.task, q.media, g) for q, g in zip(planned, graded, strict=True) if q.split == split]
            write_atomic(preferences / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        write_atomic(
            ground_truth / "truth.jsonl",
            "".join(json.dumps(ground_truth_row(query), ensure_ascii=False) + "\n" for query in planned if query.split == "heldout"),
        )
        counts = count(planned, graded)
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

    return sample_answers(base, preferences, [bare_query(query.id, query.split, query.task, query.media) for query in planned])


def ground_truth_row(query: Planned) -> dict[str, Any]:
    """A query's row in truth.jsonl."""
    return {"id": query.id, "must": [list(wordings) for wordings in query.task.must], "must_not": list(query.task.must_not)}


def count(planned: Sequence[Planned], graded: Sequence[Sequence[Graded]]) -> dict[str, Any]:
    """Counts of the data card by split: queries, responses, sampled responses, queries with a right answer, queries with a tie."""
    result: dict[str, Any] = {}
    for split in ("train", "heldout"):
        chosen = [(query, responses) for query, responses in zip(planned, graded, strict=True) if query.split == split]
        responses = [item for _, group in chosen for item in group]
        result[split] = {
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
    return result


def _copy_texts(out: Path) -> None:
    """Copy the data card and the licenses beside the data."""
    licence = next(file for file in distribution_files("easy-vqa") or () if Path(str(file)).name == "LICENSE")
    write_atomic(out / LICENSE_NAME, licence.read_binary())
    root = Path(__file__).parents[1]
    for source, name in ((root / "docs" / "data-card.md", "data-card.md"), (root / "LICENSE", "LICENSE")):
        if source.is_file():
            write_atomic(out / name, source.read_bytes())
