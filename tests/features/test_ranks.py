"""Two processes of a group fill one store together and know the same entries."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

from components.checkout import Checkout
from components.config.settings import load_settings
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.features import embedding as features
from components.features.cache import attach_features
from components.features.embedding import UncachedMedium, embed
from components.features.store import FeatureStore
from components.files import read_json, write_json
from tests.tiny import queries, save_checkout

MEDIA = [query for query in queries() if query.media]


def work(rank: int, root: Path, port: int, max_gb: float) -> None:
    """One rank: attach, then embed a query with media on one rank beside one of text on the other."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=2)
    loaded = load_settings(root / "params.yaml")
    settings = loaded.model_copy(update={"features": loaded.features.model_copy(update={"max_gb": max_gb})})
    preprocessor = Preprocessor(root / "data/base", root / "data/preferences", settings.model, settings.features)
    report = attach_features(preprocessor, root / "data/base", MEDIA, settings, Checkout(root))
    media = [preprocessor.policy_root(query).media[0] for query in MEDIA]
    result: dict[str, Any] = {
        "report": vars(report),
        "live": [isinstance(medium, UncachedMedium) for medium in media],
        "sums": [float(medium.features[0].double().sum()) for medium in media if medium.features],
    }
    model = load_model(root / "data/base")
    calls = []
    for number, parameter in enumerate(model.parameters()):
        parameter.ds_id = number
    for name, part in (("tower", model.model.vision_tower), ("projector", model.model.multi_modal_projector)):
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    chosen = MEDIA if rank == 0 else queries()[2:3]
    for query in chosen[:1], chosen:
        roots = [preprocessor.policy_root(item) for item in query]
        width = max(len(item.input_ids) for item in roots)
        embed(model, torch.tensor([[*item.input_ids, *[0] * (width - len(item.input_ids))] for item in roots]), roots)
    result["calls"] = calls
    write_json(root / f"rank-{rank}.json", result)
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("room", ["all", "half"])
def test_two_ranks_fill_cache_in_lockstep(tmp_path: Path, tiny_base: Path, tiny_media: Path, room: str) -> None:
    settings = save_checkout(tmp_path, tiny_base, tiny_media)
    single = Preprocessor(tmp_path / "data/base", tmp_path / "data/preferences", settings.model, settings.features)
    entries = attach_features(single, tmp_path / "data/base", MEDIA, settings, Checkout(tmp_path))
    expected = [
        float(medium.features[0].double().sum()) for query in MEDIA for medium in single.policy_root(query).media if medium.features
    ]
    with FeatureStore(Checkout(tmp_path)) as store:
        store.evict(0, 0, [])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # Two ranks have half of the room each, in which one of their two media fits.
    limit = 4.0 if room == "all" else entries.gigabytes * 0.75
    multiprocessing.spawn(work, (tmp_path, port, limit), nprocs=2)
    first, second = (read_json(tmp_path / f"rank-{rank}.json") for rank in range(2))
    for key in ("live", "sums"):
        assert first[key] == second[key]
    assert {**first["report"], "seconds": 0} == {**second["report"], "seconds": 0}
    assert first["calls"] == second["calls"]
    assert first["report"]["made"] + first["report"]["live"] == len(MEDIA)
    if room == "all":
        assert first["sums"] == expected
        assert first["calls"].count("tower") == 1  # for the features of the smallest medium
    else:
        assert any(first["live"])
        assert not all(first["live"])
        assert first["calls"].count("tower") > 1


def test_single_process_needs_no_collective() -> None:
    assert features._most(3) == 3
