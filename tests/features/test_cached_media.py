"""Once the features of all media are cached, trainings and inference run with the media gone: nobody opens them."""

import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from components.alignment import reference_stage, reference_task
from components.alignment.task import AlignmentTask
from components.checkout import Checkout
from components.config.settings import Settings
from components.critique.stage import write_judgements
from components.preferences.record import Medium, Query, read_queries, write_queries
from components.reward.task import RewardTask
from tests.tiny import queries, remade, save_checkout, showing

SIZES = {"square.png": (32, 32, 1), "tall.png": (32, 64, 1), "two": (32, 32, 2), "three": (32, 32, 3)}


@pytest.fixture
def settings(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> Settings:
    """A checkout whose rows have media sizes, as validation writes them, with critiques and reference log-probs."""
    settings = save_checkout(
        tmp_path, tiny_base, tiny_media, training={"ranks": 1, "row_tokens": 300}, reward={"critique_source": "annotated"}
    )
    checkout = Checkout(tmp_path)
    sized: list[Query] = [remade(query, size=SIZES[query.media[0].path]) if query.media else query for query in queries()]
    for split in ("train", "heldout"):
        write_queries(checkout.queries(split), sized)
    reference_stage.run(settings, checkout)
    judgements = [[("", float(-response.rank)) for response in query.responses] for query in queries()]
    write_judgements(checkout.critiques("train"), queries(), judgements)
    return settings


def losses(kind: type[Any], settings: Settings, root: Path) -> list[float]:
    task = kind(settings, Checkout(root))
    batches = [task.batch(micro) for step in task.epoch_plan(0) for micro in step.micros[0]]
    with torch.no_grad():
        return [float(task.loss(task.model(**batch), batch)[0]) for batch in batches]


@pytest.mark.parametrize("kind", [AlignmentTask, RewardTask])
def test_training_does_not_open_cached_media(settings: Settings, tmp_path: Path, kind: type[Any]) -> None:
    before = losses(kind, settings, tmp_path)
    shutil.rmtree(tmp_path / "data/preferences")
    assert losses(kind, settings, tmp_path) == before


def test_inference_does_not_open_cached_media(settings: Settings, tmp_path: Path) -> None:
    before = (tmp_path / "artifacts/reference/train.parquet").read_bytes()
    shutil.rmtree(tmp_path / "data/preferences")
    shutil.rmtree(tmp_path / ".mmalign/cache/reference")
    reference_stage.run(settings, Checkout(tmp_path))
    assert (tmp_path / "artifacts/reference/train.parquet").read_bytes() == before
    train, _ = reference_task.build(settings, Checkout(tmp_path))
    assert train.queries == read_queries(tmp_path / "artifacts/validate/train/queries.parquet")


def pixels_in_memory() -> list[torch.Tensor]:
    """Tensors of the process that have the form of pixels, and content."""
    gc.collect()
    return [item for item in gc.get_objects() if type(item) is torch.Tensor and item.dim() == 5 and item.device.type != "meta"]


@pytest.mark.parametrize("limit_bytes", [0, 100_000])
def test_pixels_in_memory_stay_below_the_setting(settings: Settings, tmp_path: Path, limit_bytes: int) -> None:
    """Counted over all tensors that the task left, wherever they hang."""
    before = {id(tensor) for tensor in pixels_in_memory()}
    live = {"features": settings.features.model_copy(update={"cache": False, "pixels_max_gb": limit_bytes / 1e9})}
    checkout = Checkout(tmp_path)
    for number in range(40):
        shutil.copy(tmp_path / "data/preferences/tall.png", tmp_path / f"data/preferences/{number}.png")
    rows = [showing(queries()[1], Medium(f"{n}.png", "image", str(n), SIZES["tall.png"]), id=str(n)) for n in range(40)]
    write_queries(checkout.queries("train"), rows)
    task = RewardTask(settings.model_copy(update=live), checkout)
    for step in task.epoch_plan(0):
        for micro in step.micros[0]:
            task.batch(micro)
    pixels = [tensor for tensor in pixels_in_memory() if id(tensor) not in before]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in pixels}  # views share one
    assert sum(storages.values()) <= limit_bytes
    assert bool(pixels) == bool(limit_bytes)
