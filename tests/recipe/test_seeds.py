"""`mmalign run --seeds` with the real stages: what is trained anew, what is shared, and that nothing but the seed differs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks._slice import SMALL, write_slice
from components.checkout import Checkout
from components.storage.copies import workspace_of
from components.tracking.provenance import lock_hashes
from tests.recipe.conftest import make_recipe


def statuses(root: Path) -> dict[str, str]:
    summary = json.loads((root / "reports/summary.json").read_text())
    return {name: stage["status"] for name, stage in summary["stages"].items()}


@pytest.mark.slow
def test_seeds_train_anew_what_varies_and_share_the_rest(base: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, base, partial(write_slice, train=48, heldout=32), SMALL)
    own = Checkout(recipe.root)
    for options, key, models in (((), "alignment.seed", {"align"}), (("--reward",), "training.seed", {"align", "reward"})):
        completed = recipe.mmalign("run", "--accept-data", "--bundled-rows", "--seeds", "2", *options, "--json")
        assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
        printed = json.loads(completed.stdout)
        assert [run["seed"] for run in printed["runs"]] == [0, 1]
        assert printed["metrics"]["policy.preference_accuracy"]["seeds"] == 2
        assert ("reward.acc" in printed["metrics"]) == ("reward" in models)

        copy = workspace_of(own, [f"{key}=1"])
        ran = {"align", "evaluate"} | ({"reward", "critique"} if "reward" in models else set())
        assert {name for name, status in statuses(copy.root).items() if status == "ran"} == ran
        for stage in ("reward", "align"):
            out = f"artifacts/{stage}/model"
            assert (lock_hashes(copy, stage)[out] != lock_hashes(own, stage)[out]) == (stage in models), stage
    assert set(statuses(own.root).values()) == {"skipped"}, "the second command did not train the first seed again"
    assert recipe.refused() == ""
