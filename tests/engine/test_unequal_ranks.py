"""Under ZeRO-3 with a true vocabulary, ranks whose texts and media are far apart gather equally often, and learn what one process learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.alignment import reference_stage
from components.checkout import Checkout
from components.critique.stage import write_judgements
from components.engine.launch import launch
from components.files import read_json
from components.preferences.record import write_queries
from tests.engine.conftest import spread_small_weights
from tests.engine.unequal import STEPS, queries
from tests.tiny import save_checkout, save_checkpoint

VOCABULARY, HIDDEN = 152_064, 32
FEW_FEATURES_GB = 3e-6  # of features: the cache takes some media, the tower runs for the others


def trained(root: Path, base: Path, media: Path, stage: str, **training: Any) -> tuple[list[float], list[list[dict[str, Any]]]]:
    """The losses of three steps, and each rank's gathers and calls, step by step."""
    root.mkdir()
    settings = save_checkout(
        root,
        base,
        media,
        model={"max_length": 2200},
        training={"row_tokens": 4096, "zero_stage": 3} | training,
        features={"max_gb": FEW_FEATURES_GB},
        reward={"critique_source": "annotated", "epochs": 1},
        alignment={"epochs": 1},
    )
    for split in ("train", "heldout"):
        write_queries(root / f"artifacts/validate/{split}/queries.parquet", [replace(query, split=split) for query in queries()])
    spread_small_weights(root)
    checkout = Checkout(root)
    if stage == "align":
        reference_stage.run(settings, checkout)
        write_judgements(checkout.critiques("train"), queries(), [[("", 0.1 * number), ("", -0.5)] for number in range(len(queries()))])
    outcome = launch(f"tests.engine.unequal:train_{stage}", settings, stage, checkout, "key", root / "out")
    losses = [json.loads(line)["loss"] for line in outcome.curves.read_text().splitlines()]
    return losses, [read_json(path) for path in sorted(root.glob("gathered-*.json"))]


@pytest.mark.slow
@pytest.mark.timeout(3000)  # two minutes on a machine that does nothing else
@pytest.mark.parametrize("stage", ["reward", "align"])
def test_unequal_ranks_gather_equally_and_learn_as_one(tmp_path: Path, tiny_media: Path, stage: str) -> None:
    base = save_checkpoint(tmp_path / "checkpoint", vocabulary=VOCABULARY)
    expected, _ = trained(tmp_path / "one", base, tiny_media, stage, engine="ddp", ranks=1)
    losses, (first, second) = trained(tmp_path / "two", base, tiny_media, stage)
    # A response of 900 tokens has a log-prob of some -11,000, which fp32 holds to .001; a pair's margin takes a tenth of that.
    assert losses == pytest.approx(expected, rel=1e-4)
    assert len(losses) == len(first) == len(STEPS)
    for one, other in zip(first, second, strict=True):
        assert one["gathered"] == other["gathered"]
        assert one["calls"] == other["calls"]
        assert one["calls"]["projector"] > 0
        assert any(size >= VOCABULARY * HIDDEN for size in one["gathered"])
    assert sum("tower" in one["calls"] for one in first) >= 1, "the cache has no room for all media"
