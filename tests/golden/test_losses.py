"""The first 20 losses of both trainings on a random checkpoint, checked in: a refactor leaves them as they are.

`python -m tests.golden.test_losses` writes the file anew, for a change that is meant.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from components.alignment import reference_stage
from components.alignment.task import AlignmentTask
from components.checkout import Checkout
from components.critique.stage import write_judgements
from components.reward.task import RewardTask
from tests.tiny import queries, save_checkout, save_checkpoint, save_media

GOLDEN = Path(__file__).with_name("losses.json")
STEPS = 20


def losses(root: Path, base: Path, media: Path) -> dict[str, list[float]]:
    """20 steps of plain AdamW on each task, one rank, the five tiny queries a step."""
    training = {"ranks": 1, "row_tokens": 300, "batch_rows": 2}
    settings = save_checkout(
        root,
        base,
        media,
        training=training,
        alignment={"queries_per_step": 3},
        reward={"queries_per_step": 3, "critique_source": "annotated"},
    )
    reference_stage.run(settings, Checkout(root))
    judgements = [[("", -1.5 * response.rank + 0.1 * number) for number, response in enumerate(query.responses)] for query in queries()]
    write_judgements(root / "artifacts/critique/train.parquet", queries(), judgements)
    return {"reward": _train(RewardTask(settings, Checkout(root))), "align": _train(AlignmentTask(settings, Checkout(root)))}


def _train(task: Any) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in task.model.parameters() if p.requires_grad], lr=2e-4, weight_decay=0.0)
    metrics: list[float] = []
    epoch = 0
    while len(metrics) < STEPS:
        for step in task.epoch_plan(epoch):
            total = 0.0
            for micro in step.micros[0]:
                batch = task.batch(micro)
                loss, _ = task.loss(task.model(**batch), batch)
                loss.backward()
                total += loss.item()
            optimizer.step()
            optimizer.zero_grad()
            metrics.append(round(total, 6))
        epoch += 1
    return metrics[:STEPS]


def test_training_losses_equal_golden_values(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    measured = losses(tmp_path, tiny_base, tiny_media)
    for name, expected in golden.items():
        # Processors differ in the order in which they add: the first steps agree closely, later ones a little less.
        assert measured[name] == pytest.approx(expected, rel=2e-3), name
        assert measured[name][:5] == pytest.approx(expected[:5], rel=1e-4), name
        assert measured[name][-1] < measured[name][0], "training lowers the loss"


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    save_media(folder / "media")
    (folder / "checkout").mkdir()
    GOLDEN.write_text(json.dumps(losses(folder / "checkout", save_checkpoint(folder / "base"), folder / "media"), indent=1) + "\n")
