"""The benchmark of critiques at minute sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import critique


@pytest.fixture(scope="module", params=["llava_onevision", "qwen2_5_vl"])
def sides(request: pytest.FixtureRequest) -> critique.Sides:
    return critique.Sides(critique.SMALL_CASE, request.param)


def test_all_sides_write_one_text_and_one_score(sides: critique.Sides) -> None:
    tokens, scores = sides.decoder()
    for other_tokens, other_scores in (sides.sequential(), sides.batched()):
        assert other_tokens == tokens
        torch.testing.assert_close(other_scores, scores, rtol=1e-4, atol=1e-5)
    assert {len(row) for row in tokens} == {critique.SMALL_CASE.critique_tokens}
    assert len({tuple(row) for row in tokens}) > 1


def test_decoder_reads_the_picture_once(sides: critique.Sides) -> None:
    pictures: list[int] = []
    vision = sides.model.model.vision_tower if hasattr(sides.model.model, "vision_tower") else sides.model.model.visual
    handle = vision.register_forward_hook(lambda *_: pictures.append(1))
    sides.decoder()
    once = len(pictures)
    sides.sequential()
    handle.remove()
    assert once == 1
    assert len(pictures) - once == 2 * critique.SMALL_CASE.responses


def test_prediction_follows_from_token_counts() -> None:
    rates = {"picture": 0.0, "read": 1.0, "write_one": 0.0, "write_all": 0.0}
    seconds = critique.predicted_seconds(critique.CASE, rates)
    assert seconds == {"decoder": 840 + 4 * 60, "sequential": 4 * (900 + 941), "batched": 4 * (900 + 941)}
    written = critique.predicted_seconds(critique.CASE, {**rates, "read": 0.0, "write_one": 1.0, "write_all": 10.0})
    assert written == {"decoder": 410, "sequential": 4 * 39, "batched": 390}


@pytest.mark.slow
def test_report_has_all_keys() -> None:
    report: dict[str, Any] = critique.run(small=True, threads=1, rounds=2)
    for key in ("speedup_vs_sequential", "speedup_vs_batched_generate"):
        assert report[key] == min(family[key] for family in report["families"].values()) > 0
        assert report["share_of_predicted"][key] > 0
    assert report["mismatched_tokens"] == 0
