"""The pair table and the reference log-probs of a training in mapped arrays: the launcher makes them once, and all ranks share them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from components.alignment.betas import Array, MarginScale
from components.alignment.pairs import PairTable, build_pairs, read_scores
from components.alignment.reference_table import read_blank_log_probs, read_log_probs
from components.checkout import IN_CHECKOUT, Checkout
from components.closures import code_digest
from components.config.settings import Settings
from components.errors import UserError
from components.files import digest_bytes, digest_file, read_json, write_json
from components.preferences.query_table import QueryTable
from components.storage.prepared import prepared

SCALE = "scale.json"
Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class TrainingPairs:
    """The pairs of a table's queries, and of all its K responses, in order, the log-prob sum under the base model and its tokens.

    A response without a log-prob has NaN and 0 tokens. `blank_K` are log-prob sums under gray media, NaN where there is none.
    """

    pairs: PairTable
    log_prob_K: Array
    tokens_K: np.ndarray[Any, np.dtype[np.int32]]
    blank_K: Array


def prepared_pairs(settings: Settings, checkout: Checkout, queries: QueryTable) -> TrainingPairs:
    """The pairs that `build_pairs` makes of the training queries, and their reference. Raises UserError as it does."""
    critiques, reference = checkout.critiques("train"), checkout.reference("train")
    key = digest_bytes(
        code_digest("align"),
        queries.digest,
        digest_file(critiques),
        digest_file(reference),
        settings.alignment.model_dump_json(),
        str(settings.reward.calibration_share),
    )

    def make(folder: Path) -> None:
        pairs = build_pairs(queries, read_scores(critiques), settings.alignment, settings.reward.calibration_share)
        log_probs, blank = read_log_probs(reference), read_blank_log_probs(reference)
        missing = float("nan"), 0
        keys = [(query.id, number) for query in queries for number in range(len(query.responses))]
        values = [log_probs.get(key, missing) for key in keys]
        for name in _columns():
            np.save(folder / f"{name}.npy", getattr(pairs, name))
        write_json(folder / SCALE, vars(pairs.scale))
        np.save(folder / "log_prob_K.npy", np.array([value for value, _ in values], dtype=np.float64))
        np.save(folder / "tokens_K.npy", np.array([tokens for _, tokens in values], dtype=np.int32))
        np.save(folder / "blank_K.npy", np.array([blank.get(key, float("nan")) for key in keys], dtype=np.float64))

    folder = prepared(checkout, "pairs", key, make)

    def mapped(name: str) -> Any:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    pairs = PairTable(**{name: mapped(name) for name in _columns()}, scale=MarginScale(**read_json(folder / SCALE)))
    return TrainingPairs(pairs, mapped("log_prob_K"), mapped("tokens_K"), mapped("blank_K"))


def check_complete(training: TrainingPairs, queries: QueryTable, first: Indices, *, contrasted: bool = False) -> None:
    """Raises UserError where a response of a pair's query has no reference log-prob; `contrasted` asks for those under gray media, too.

    `first` counts the responses before each query.
    """
    for index in _lacking(training.log_prob_K, training, first):
        raise UserError(
            f"{IN_CHECKOUT.reference('train')} has no log-prob of a response of query '{queries[index].id}': run the reference stage again"
        )
    for index in _lacking(training.blank_K, training, first) if contrasted else []:
        if queries[index].media:
            raise UserError(
                f"{IN_CHECKOUT.reference('train')} has no log-prob under gray media of a response of query '{queries[index].id}', which "
                "alignment.image_weight needs: run the reference stage again"
            )


def _lacking(value_K: Array, training: TrainingPairs, first: Indices) -> list[int]:
    """Queries with pairs and a response without a value."""
    missing = np.searchsorted(first, np.flatnonzero(np.isnan(value_K)), side="right") - 1
    indices: list[int] = missing[np.isin(missing, training.pairs.query)].tolist()
    return indices


def _columns() -> list[str]:
    return [field.name for field in fields(PairTable) if field.name != "scale"]
