from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.alignment.reference_stage import run
from components.alignment.reference_table import read_log_probs
from components.checkout import Checkout
from components.families.loading import load_model
from components.preferences.record import Response, read_queries, write_queries
from components.trees.scoring import policy_tree
from tests.tiny import preprocessor, save_checkout
from tests.trees.test_trees import separate_log_prob


def test_each_response_has_a_log_prob_and_only_new_are_computed(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> None:
    settings = save_checkout(tmp_path, tiny_base, tiny_media)
    first = run(settings, Checkout(tmp_path))
    table = tmp_path / "artifacts/validate/train/queries.parquet"
    queries = read_queries(table)
    log_probs = read_log_probs(tmp_path / "artifacts/reference/train.parquet")
    model, prepared = load_model(tiny_base), preprocessor(tiny_base, tiny_media)
    with torch.no_grad():
        for query in queries:
            tree = policy_tree(prepared, query)
            for number, branch in enumerate(tree.branches):
                log_prob, tokens = log_probs[query.id, number]
                assert log_prob == pytest.approx(separate_log_prob(model, tree.root, branch).item(), rel=1e-5)
                assert tokens == len(branch.input_ids)
    # Held-out queries are the same five, so the second split came from the cache.
    assert (first.times["queries_computed"], first.times["queries_cached"]) == (5, 5)

    bytes_before = (tmp_path / "artifacts/reference/heldout.parquet").read_bytes()
    write_queries(table, [*queries, replace(queries[2], id="new", responses=(Response("Other.", 1), Response("More.", 2)))])
    assert run(settings, Checkout(tmp_path)).times["queries_computed"] == 1
    assert (tmp_path / "artifacts/reference/heldout.parquet").read_bytes() == bytes_before
    assert len(read_log_probs(tmp_path / "artifacts/reference/train.parquet")) == len(log_probs) + 2
