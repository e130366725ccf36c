"""Signs of a training that has gone wrong, and the export that must not look finished."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from components.engine.health import STILL_STEPS, MovingWeights, check_gradient, weights_digest
from components.engine.outcome import export
from components.errors import StageFault
from tests.engine.conftest import prepare, toy_settings
from tests.engine.toy import ToyTask


def test_weights_that_stay_the_same_stop_the_run() -> None:
    moving = MovingWeights(nn.Linear(2, 2))
    moving.begin()
    for _ in range(STILL_STEPS - 1):
        moving.after_step()
    with pytest.raises(StageFault, match=f"did not change in {STILL_STEPS} steps"):
        moving.after_step()


def test_a_short_run_without_movement_is_found_at_its_end() -> None:
    moving = MovingWeights(nn.Linear(2, 2))
    moving.begin()
    moving.after_step()
    with pytest.raises(StageFault, match="did not change in 1 steps"):
        moving.check()


def test_one_moved_weight_is_enough() -> None:
    model = nn.Linear(2, 2)
    moving = MovingWeights(model)
    moving.begin()
    with torch.no_grad():
        model.bias[0] += 1e-6
    for _ in range(2 * STILL_STEPS):
        moving.after_step()
    moving.check()


@pytest.mark.parametrize(
    ("norm", "message"), [(math.nan, "norm is nan at step 8"), (math.inf, "norm is inf"), (0.0, "exactly zero at step 8")]
)
def test_a_bad_gradient_stops_the_run(norm: float, message: str) -> None:
    with pytest.raises(StageFault, match=message):
        check_gradient(7, 0, norm)


def test_the_digest_sees_one_bit_of_one_weight() -> None:
    model = nn.Linear(3, 3)
    before = weights_digest(model)
    assert weights_digest(model) == before
    with torch.no_grad():
        model.weight[2, 2] = torch.nextafter(model.weight[2, 2], torch.tensor(9.0))
    assert weights_digest(model) != before


class Pickler(ToyTask):
    def export(self, folder: Path) -> None:
        torch.save(self.model.state_dict(), folder / "pytorch_model.bin")


def test_pickle_is_never_exported_and_the_old_model_stays(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    (root / "out").mkdir()
    (root / "out" / "old").touch()
    with pytest.raises(StageFault, match=r"holds pickles \(pytorch_model\.bin\)"):
        export(Pickler(toy_settings(), root), root / "out")
    assert [path.name for path in (root / "out").iterdir()] == ["old"]


def test_export_replaces_the_old_one_without_partial_folders(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    (root / "out").mkdir()
    (root / "out" / "old").touch()
    export(ToyTask(toy_settings(), root), root / "out")
    assert [path.name for path in (root / "out").iterdir()] == ["model.safetensors"]
    assert not list(root.glob(".out*"))
