"""Measures a base's answers and checks on pictures outside its training set, for the data card.

The measurement uses files, the standard processor and the pipeline's generation, as a user's run does.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.generation.generate import generate
from components.preferences.record import Query
from demo.families import FAMILIES, draw_task
from demo.images import Picture
from demo.responses import bare_query
from demo.rows import answer_to_check
from demo.sampling import BATCH, MAX_NEW_TOKENS
from demo.tasks import Answer, Task, seeded


def write_media(tasks: Sequence[Task], folder: Path) -> list[Query]:
    """Copy each task's picture, or its frames, to `folder`; the tasks as queries about them."""
    queries = []
    for index, task in enumerate(tasks):
        media = f"{index:04d}" if task.category == "video" else f"{index:04d}.png"
        if task.category == "video":
            (folder / media).mkdir(parents=True, exist_ok=True)
            for number, picture in enumerate(task.pictures):
                shutil.copyfile(picture.path, folder / media / f"frame_{number:02d}.png")
        else:
            shutil.copyfile(task.pictures[0].path, folder / media)
        queries.append(bare_query(str(index), "train", task, media))
    return queries


def measure_base(base: Path, pictures: Sequence[Picture], folder: Path, instruction: str, *, each: int, seed: int = 0) -> dict[str, Any]:
    """Shares of right answers and of right checks by family, from `each` tasks a family; `folder` takes the media."""
    chance = seeded(f"measure {seed}")
    tasks = [draw_task(family, pictures, chance) for family in FAMILIES for _ in range(each)]
    checked = [answer_to_check(task, chance) for task in tasks]
    queries = write_media(tasks, folder)
    model = load_model(base)
    settings = ModelSettings(base=base, attention="sdpa", max_length=512, max_frames=8)
    preprocessor = Preprocessor(base, folder, settings, FeatureSettings(pixels_max_gb=1.0))

    def texts(roots: list[Any], suffixes: list[list[int]]) -> list[str]:
        options: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "batch_size": BATCH, "end_id": preprocessor.end_id}
        return [preprocessor.tokenizer.decode(tokens) for tokens in generate(model, roots, suffixes, **options)]

    answers = texts([preprocessor.policy_root(query) for query in queries], [[] for _ in queries])
    critiques = texts(
        [preprocessor.judge_root(query, instruction) for query in queries], [preprocessor.judge_ids(answer.text) for answer in checked]
    )
    return {"answers": _answers(tasks, answers), "checks": _checks(tasks, checked, critiques)}


def _answers(tasks: Sequence[Task], texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Shares by family: right answers, answers with an added object, unsafe answers, refusals, and texts that match no rule."""
    rows_of: dict[str, list[dict[str, bool]]] = defaultdict(list)
    for task, text in zip(tasks, texts, strict=True):
        answer_of = {answer.text: answer for answer in task.answers()}
        kinds = [fault.kind for fault in answer_of[text].faults] if text in answer_of else []
        rows_of[task.family].append(
            {
                "right": text in answer_of and not kinds,
                "adds": "adds" in kinds,
                "unsafe": "unsafe" in kinds or "mixed" in kinds,
                "refuses": "refuses" in kinds,
                "unknown": text not in answer_of,
            }
        )
    return {family: {name: _mean([row[name] for row in rows]) for name in rows[0]} for family, rows in rows_of.items()}


def _checks(tasks: Sequence[Task], checked: Sequence[Answer], texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """By family: the share of exact critiques, and the verdict's balanced accuracy."""
    exact: dict[str, list[bool]] = defaultdict(list)
    by_label: dict[str, dict[bool, list[bool]]] = defaultdict(lambda: {True: [], False: []})
    for task, answer, text in zip(tasks, checked, texts, strict=True):
        right = not answer.faults
        exact[task.family].append(text == task.critique(answer))
        by_label[task.family][right].append(("Correct" in text) == right)
    return {
        family: {"exact": _mean(exact[family]), "verdict": _mean([_mean(values) for values in by_label[family].values() if values])}
        for family in exact
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 3)
