"""The arms and the data of `benchmarks.alignment_effect`.

An arm is a set of overrides of the shipped settings, so that it is trained by `mmalign run --set`, as a user would. All arms of one data set
share its reward model, its critiques and its reference log-probs; with the same seed they see the same queries in the same order.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks._slice import Slice, make_slice, read_rows, write_rows
from components.alignment.betas import pair_betas
from components.checkout import Checkout
from components.config.settings import load_settings
from components.storage.copies import workspace_of
from tests.checkout import ROOT, clean_environment

REVERSED_SHARE = 0.25  # of the training queries
DATA = ("clean", "reversed")
BEST = {"alignment.beta_weight": 8.0, "alignment.beta_scale": 4.0}  # the best point of `--grid`
PAPER = {"alignment.beta_weight": 0.5, "alignment.beta_scale": 0.5}
ENDPOINTS = {  # metric of the stage evaluate, in percentage points
    "preference_accuracy": ("policy.preference_accuracy", 100.0),
    "conversation": ("policy.aligned.conversation", 1.0),
    "unsafe": ("policy.aligned.unsafe_rate", 100.0),
}
Overrides = dict[str, Any]
Row = dict[str, Any]


def arms(margins: np.ndarray[Any, np.dtype[np.float64]], params: Path) -> dict[str, Overrides]:
    """Overrides by arm. `margins` are the training pairs' scaled margins, from which the mean beta of an arm follows."""

    def constant(overrides: Overrides) -> Overrides:
        changes = {key.removeprefix("alignment."): value for key, value in overrides.items()}
        betas = pair_betas(margins, load_settings(params).alignment.model_copy(update=changes))
        return {"alignment.beta_schedule": "constant", "alignment.beta": round(float(betas.mean()), 6)}

    return {
        "mm_dpo": PAPER,
        "dpo": constant(PAPER),
        "image": {**constant(PAPER), "alignment.image_weight": 1.0},
        "shuffled": {**PAPER, "alignment.margin_control": "shuffled"},
        "no_weight": {"alignment.beta_weight": 0.0},
        "reversed": {**PAPER, "alignment.margin_control": "reversed"},
        "best_point": BEST,
        "best_point_dpo": constant(BEST),
        "best_point_shuffled": {**BEST, "alignment.margin_control": "shuffled"},
        "sft": {"alignment.preference_weight": 0.0, "alignment.sft_weight": 1.0, "alignment.sft_per": "query"},
    }


CONTROL = {  # what an arm is compared with: DPO with the same mean beta
    "mm_dpo": "dpo",
    "shuffled": "dpo",
    "no_weight": "dpo",
    "reversed": "dpo",
    "image": "dpo",
    "sft": "dpo",
    "best_point": "best_point_dpo",
    "best_point_shuffled": "best_point_dpo",
}
QUICK = ("mm_dpo", "dpo", "shuffled")


def is_reversed(identity: str) -> bool:
    """Whether a query's ranking is reversed in the data set `reversed`: by a hash of its id, so that every machine reverses the same ones."""
    return int(hashlib.sha256(f"reversed {identity}".encode()).hexdigest()[:8], 16) / 2**32 < REVERSED_SHARE


def reverse(row: Row) -> Row:
    """The row with its ranks upside down; texts, scores and reasons stay, as they do where a person mixes the order up."""
    ranks = row["final_ranking"]
    return {**row, "final_ranking": [max(ranks) + min(ranks) - rank for rank in ranks]}


def make_checkout(folder: Path, data: str) -> Slice:
    """A checkout below `folder` with the whole bundled data, or the one that an earlier call made. Held-out rows are clean in both."""
    root, complete = folder / data / "checkout", folder / data / "complete"
    if not complete.is_file():
        shutil.rmtree(root, ignore_errors=True)
        make_slice(folder / data, ROOT / "data/base", partial(_write_data, data), {})
        complete.touch()
    environment = {**clean_environment(), "PYTHONPATH": str(root)}
    environment.pop("TORCH_EXTENSIONS_DIR", None)
    return Slice(root, environment)


def _write_data(data: str, target: Path) -> None:
    for part in ("preferences", "truth"):
        shutil.copytree(ROOT / "data" / part, target / part, copy_function=os.link)
    if data == "reversed":
        file = target / "preferences/data.jsonl"
        rows = [reverse(row) if is_reversed(row["id"]) else row for row in read_rows(file)]
        file.unlink()  # it is the bundled file itself
        write_rows(file, rows)


def run(made: Slice, *arguments: str) -> None:
    """Run `mmalign run`. Raises SystemExit with its last lines where it fails."""
    ended = made.mmalign("run", "--no-promote", "--no-rehearsal", *arguments, timeout=7200)
    if ended.returncode != 0:
        raise SystemExit(f"mmalign run {' '.join(arguments)} ended with {ended.returncode}:\n{(ended.stdout + ended.stderr)[-3000:]}")


def train(made: Slice, overrides: Mapping[str, Any], seed: int) -> Row:
    """Train and evaluate the policy with an arm's overrides; its endpoints, in percentage points."""
    assignments = [f"{key}={json.dumps(value) if not isinstance(value, str) else value}" for key, value in overrides.items()]
    assignments.append(f"alignment.seed={seed}")
    run(made, *(word for assignment in assignments for word in ("--set", assignment)))
    copy = workspace_of(Checkout(made.root), assignments)
    metrics = json.loads((copy.artifacts / "evaluate/metrics.json").read_text())
    shutil.rmtree(copy.root)  # its results lie in DVC's cache
    return {name: factor * metrics[key] for name, (key, factor) in ENDPOINTS.items()}


def margins_of(made: Slice) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The scaled margins of a checkout's training pairs, as its shipped settings have them."""
    column = pq.read_table(made.root / "artifacts/align/pairs.parquet", columns=["margin"])["margin"]
    return np.array([np.nan if value is None else value for value in column.to_pylist()])
