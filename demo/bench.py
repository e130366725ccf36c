"""Builds data/bench: a benchmark of reward models in the layout of MM-RLHF-RewardBench (`mm_reward_bench.jsonl` and its images).

- A row is a pair of answers of different rank to one question; rows of one id are one question.
- No training or held-out row shows one of its pictures, and no training row has one of its wordings, things or verbs: they are those of the
  hard part, about pictures of the package's test images that come after the held-out ones.
- Rules make all answers. The build is deterministic, and needs no base.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.files import write_atomic
from components.preferences.record import Query
from demo.build import HARD_COMBINATIONS, POOL, Planned, copy_media, media_path
from demo.checkpoint import replace_folder
from demo.families import draw_task
from demo.images import Picture, load_pictures
from demo.responses import choose_responses, query_of
from demo.tasks import seeded

SEED = "easy-vqa reward bench 1"
ROWS, IMAGES = "mm_reward_bench.jsonl", "images"
SIZES = {
    "short_colour": 5,
    "short_shape": 5,
    "short_exists": 5,
    "short_place": 5,
    "long_description": 20,
    "mcq": 20,
    "video_colour": 10,
    "video_order": 10,
    "harmful": 10,
    "harmless": 10,
}


def bench_pictures() -> tuple[Picture, ...]:
    """The package's test images behind those of the held-out rows, without the hard part's combinations."""
    usual = [picture for picture in load_pictures("test") if (picture.color, picture.shape) not in HARD_COMBINATIONS]
    return tuple(usual[POOL["heldout"] :])


def build_bench(out: Path, sizes: Mapping[str, int] = SIZES) -> int:
    """Write the benchmark to the folder `out`; returns the number of pairs. Raises UserError without the package `easy-vqa`."""
    try:
        planned = _plan(sizes)
    except ModuleNotFoundError as error:
        raise UserError("the package easy-vqa is not installed: run `make install`, or `pip install easy-vqa`") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".bench-", dir=out.parent))
    try:
        copy_media(planned, temporary / IMAGES)
        graded = [choose_responses(query.task, query.id, []) for query in planned]
        queries = [query_of(q.id, q.part, q.task, q.media, g) for q, g in zip(planned, graded, strict=True)]
        rows = [row for query in queries for row in pair_rows(query)]
        write_atomic(temporary / ROWS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        temporary.chmod(0o755)
        replace_folder(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(rows)


def _plan(sizes: Mapping[str, int]) -> list[Planned]:
    """So many questions of each family, no prompt and no picture of a still twice."""
    pictures, planned, prompts = list(bench_pictures()), list[Planned](), set[str]()
    for family, count in sizes.items():
        accepted = attempt = 0
        while accepted < count:
            attempt += 1
            task = draw_task(family, tuple(pictures), seeded(f"{SEED} {family} {attempt}"), "hard")
            media = media_path(task)
            if f"{media} {task.prompt}" in prompts:
                continue
            prompts.add(f"{media} {task.prompt}")
            pictures = [picture for picture in pictures if picture not in task.pictures or task.category == "video"]
            planned.append(Planned(f"{family}-bench-{accepted:04d}", "hard", task, media))
            accepted += 1
    return planned


def pair_rows(query: Query) -> list[dict[str, Any]]:
    """The rows of a question, one a pair of answers of different rank."""
    medium = query.media[0]
    return [
        {
            "id": query.id,
            medium.kind: f"{IMAGES}/{medium.path}",
            "prompt": query.prompt,
            "chosen": query.responses[better].text,
            "rejected": query.responses[worse].text,
            "chosen_reason": query.responses[better].critique,
            "rejected_reason": query.responses[worse].critique,
            "clusters": query.clusters,
        }
        for better, worse in query.pairs()
    ]
