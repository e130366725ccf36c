"""Runs a judge over labelled answers and writes its error sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.evaluation.chain import Chain, load_chain, open_judge
from components.evaluation.error_sheets import measure
from components.evaluation.judge import GroundTruthJudge
from components.evaluation.labels import LabelledAnswer, read_labels
from components.evaluation.model_judge import ModelJudge
from components.evaluation.verdict import CHAIN, GROUND_TRUTH, MODEL, JudgedAnswer
from components.files import digest_file


def calibrate(name: str, files: Sequence[Path], settings: Settings, checkout: Checkout) -> dict[str, Any]:
    """The error sheet of the judge `name` on the labelled answers of `files`, with the files' digests."""
    labelled = [one for file in files for one in read_labels(file)]
    judge = load_chain(settings, checkout) if name == CHAIN else open_judge(name, settings, checkout)
    if name == GROUND_TRUTH:
        judge = _by_labels(labelled)
    if isinstance(judge, ModelJudge | Chain):
        judge.prepare([JudgedAnswer(one.query, one.answer) for one in labelled])
    verdicts = [judge.judge(one.query, one.answer) for one in labelled]
    chained = isinstance(judge, Chain) and MODEL in judge.judges
    model = settings.endpoint.judge.model if chained or isinstance(judge, ModelJudge) else ""
    return {**measure(name, labelled, verdicts, model=model), "labels": [_file(file, checkout) for file in files]}


def _by_labels(labelled: Sequence[LabelledAnswer]) -> GroundTruthJudge:
    """The judge by the ground truth that stands in the labelled rows."""
    ground_truths = {one.query.id: one.ground_truth for one in labelled if one.ground_truth is not None}
    if not ground_truths:
        raise UserError(
            f"no labelled answer has ground truth (`must` and `must_not`), by which judge '{GROUND_TRUTH}' reads: add it, or name another judge"
        )
    return GroundTruthJudge(ground_truths)


def _file(file: Path, checkout: Checkout) -> dict[str, str]:
    root = checkout.root.resolve()
    return {"file": file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name, "digest": digest_file(file)}
