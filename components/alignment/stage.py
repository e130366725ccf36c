"""Stage `align`: MM-DPO on preference trees, with a beta for every pair.

Reads  artifacts/validate/train, artifacts/critique/train.parquet, artifacts/reference/train.parquet, the base model, infra/deepspeed.
Writes artifacts/align/model, artifacts/align/pairs.parquet (every pair with margin, beta and log-probs under policy and reference).
Alone: `mmalign stage align`. Killed and run again, it goes on from the last committed checkpoint.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from components.alignment.betas import beta_summary, margin_summary
from components.alignment.pairs import PairTable, build_pairs, read_scores, write_pairs
from components.alignment.plots import plot_betas
from components.alignment.reference_table import read_log_probs
from components.config import Settings
from components.preferences.record import Query, read_queries
from components.tracking.result import StageResult
from components.training.figures import last_figures
from components.training.launch import launch
from components.training.scratch_key import training_key

CODE = [Path("components") / name for name in ("preferences", "vlm", "training", "alignment")]
OVERFIT_RATIO = 1.5  # margins of trained-on queries this many times those of the calibration part deserve a warning


def run(settings: Settings, root: Path) -> StageResult:
    """Build the pairs, train under the launcher, and write down what was done to each pair."""
    queries = read_queries(root / "artifacts/validate/train/queries.parquet")
    scores = read_scores(root / "artifacts/critique/train.parquet")
    pairs = build_pairs(queries, scores, settings.alignment, settings.reward.calibration_share)
    metrics = describe(pairs, settings)
    key = training_key(
        root,
        settings=[
            *(section.model_dump_json() for section in (settings.model, settings.training, settings.alignment)),
            str(settings.reward.calibration_share),
        ],
        inputs=[
            Path("artifacts/validate/train"),
            Path("artifacts/critique/train.parquet"),
            Path("artifacts/reference/train.parquet"),
            settings.model.base,
            Path("infra/deepspeed"),
        ],
        code=CODE,
    )
    outcome = launch("components.alignment.task:build", settings, "align", root, key, root / "artifacts/align/model")
    reference = {key: value[0] for key, value in read_log_probs(root / "artifacts/reference/train.parquet").items()}
    write_pairs(root / "artifacts/align/pairs.parquet", queries, pairs, final_log_probs(settings, root, queries), reference)
    plot = Path(tempfile.mkdtemp(prefix="mmalign-")) / "betas.png"
    plot_betas(plot, pairs, settings.alignment)
    figures = last_figures(
        outcome.curves, "loss/preference", "loss/sft", "rewards/accuracy", "rewards/margin", "log_probs/chosen", "log_probs/rejected"
    )
    return StageResult(
        metrics={"steps": outcome.steps, **metrics, **figures},
        times={"training_seconds": outcome.seconds, "startup_seconds": outcome.startup_seconds, "resumed_from": outcome.resumed_from},
        params={"weights": outcome.weights},
        curves=outcome.curves,
        artifacts=[plot],
    )


def describe(pairs: PairTable, settings: Settings) -> dict[str, float | int | None]:
    """Figures of margins and betas; warns when betas sit at an end of their range, or margins are those of an overfitted reward model."""
    summary = beta_summary(pairs.beta, settings.alignment)
    low, weight = settings.alignment.beta, settings.alignment.beta_weight
    histogram, edges = np.histogram(pairs.beta, bins=10, range=(low, low * (1 + weight)))
    metrics: dict[str, float | int | None] = {
        "pairs": len(pairs.beta),
        "margin_divisor": pairs.scale.divisor,
        **summary,
        **margin_summary(pairs.margin[~pairs.calibration], "margin"),
        **{f"beta.histogram.{edge:.4f}": int(count) for edge, count in zip(edges[:-1], histogram, strict=True)},
    }
    if pairs.calibration.any():
        metrics |= margin_summary(pairs.margin[pairs.calibration], "margin.calibration")
        seen, unseen = metrics["margin.median"], metrics["margin.calibration.median"]
        if seen is not None and unseen is not None and seen > OVERFIT_RATIO * unseen:
            _warn(
                f"margins of queries that the reward model was trained on (median {seen:.2f}) are larger than those of the "
                f"calibration part ({unseen:.2f}): it has overfitted, so beta is higher than it should be"
            )
    cures = {"cap": "set alignment.margins to standardised or lower alignment.beta_scale", "floor": "raise alignment.beta_scale"}
    for end, cure in cures.items():
        share = summary[f"beta.share_at_{end}"]
        if share is not None and share > 0.5:
            _warn(f"{share:.0%} of the pairs have a beta at the {end} of its range, so this is close to DPO with a constant beta; {cure}")
    return metrics


def final_log_probs(settings: Settings, root: Path, queries: list[Query]) -> dict[tuple[str, int], float]:
    """Log-prob sums of all training responses under the model that the stage has just written."""
    import torch

    from components.vlm.loading import load_model
    from components.vlm.processing import Preprocessor
    from components.vlm.scoring import response_log_probs

    torch.set_num_threads(settings.reference.threads)
    folder = root / "artifacts/align/model"
    preprocessor = Preprocessor(folder, root / "data/preferences", settings.model, settings.features)
    model = load_model(folder, attention=settings.model.attention)
    found = response_log_probs(model, preprocessor, queries, settings.training.row_tokens)
    return {key: log_prob for key, (log_prob, _) in found.items()}


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr, flush=True)
