"""The tower's output from the store against the tower itself, and when the store must not be used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.checkout import Checkout
from components.config.settings import Settings, parse_settings
from components.families.digests import model_digest
from components.families.loading import load_model
from components.families.opening import whole_weights
from components.families.processing import Preprocessor
from components.features import cache as feature_cache
from components.features.cache import FeatureReport, attach_features
from components.features.embedding import UncachedMedium
from components.features.keys import context_digest, vision_digest
from components.features.store import FeatureStore
from components.preferences.record import Query
from components.trees.logprobs import TreeModel
from components.trees.scoring import policy_tree
from components.trees.trees import build_batch
from tests.families.checkpoints import BUILDERS
from tests.tiny import embedded_media, queries, remade, save_checkout

MEDIA = [query for query in queries() if query.media]


@pytest.fixture
def settings(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> Settings:
    return save_checkout(tmp_path, tiny_base, tiny_media)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return load_model(tiny_base)


def changed(settings: Settings, section: str, **keys: object) -> Settings:
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=keys)})


def attached(
    root: Path, settings: Settings, chosen: Sequence[Query] = MEDIA, base: Path | None = None
) -> tuple[Preprocessor, FeatureReport]:
    base = base or root / settings.model.base
    preprocessor = Preprocessor(base, root / "data/preferences", settings.model, settings.features)
    return preprocessor, attach_features(preprocessor, base, chosen, settings, Checkout(root))


def projected(model: Any, preprocessor: Preprocessor, chosen: Sequence[Query] = MEDIA) -> list[torch.Tensor]:
    return [embedded_media(model, preprocessor.policy_root(query)) for query in chosen]


def cached_features(preprocessor: Preprocessor, query: Query) -> torch.Tensor:
    features = preprocessor.policy_root(query).media[0].features
    assert features is not None
    return features[0]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@torch.no_grad()
def test_features_equal_live_tower_and_pixels_are_dropped(tmp_path: Path, settings: Settings, model: Any) -> None:
    live = Preprocessor(tmp_path / "data/base", tmp_path / "data/preferences", settings.model, settings.features)
    preprocessor, report = attached(tmp_path, settings)
    assert (report.media, report.hits, report.made, report.live) == (4, 0, 4, 0)
    for query in MEDIA:
        medium, plain = preprocessor.policy_root(query).media[0], live.policy_root(query).media[0]
        assert torch.equal(cached_features(preprocessor, query), live.family.vision_tower(model, [plain])[0][0])
        assert set(medium.tensors) == ({"image_sizes"} if query.kinds == ("image",) else set())
        assert torch.equal(cached_features(preprocessor, query), preprocessor.judge_root(query, "Judge it.").media[0].features[0])  # type: ignore[index]


@torch.no_grad()
def test_log_probs_are_those_of_live_tower(tmp_path: Path, settings: Settings, model: Any) -> None:
    live = Preprocessor(tmp_path / "data/base", tmp_path / "data/preferences", settings.model, settings.features)
    trees = [policy_tree(live, query) for query in queries()]
    expected = TreeModel(model)(build_batch(trees, 300, "cpu", 0))
    some, _ = attached(tmp_path, settings, MEDIA[1:3])  # the others stay live in the same batch
    mixed = [policy_tree(some, query) for query in queries()]
    assert [tree.root.media[0].features is None for tree in mixed if tree.root.media] == [True, False, False, True]
    torch.testing.assert_close(TreeModel(model)(build_batch(mixed, 300, "cpu", 0)), expected, atol=1e-5, rtol=1e-6)


def test_second_run_computes_nothing(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = attached(tmp_path, settings)
    monkeypatch.setattr(feature_cache, "load_model", lambda *_, **__: pytest.fail("the tower was opened"))
    second, report = attached(tmp_path, settings)
    assert (report.hits, report.made) == (4, 0)
    assert report.gigabytes == pytest.approx(sum(cached_features(first, query).nbytes for query in MEDIA) / 1e9)
    assert all(torch.equal(cached_features(first, query), cached_features(second, query)) for query in MEDIA)


def test_entry_does_not_depend_on_other_media(tmp_path: Path, settings: Settings) -> None:
    """A fresh clone and a checkout that grew row by row end with the same bits."""
    fresh, _ = attached(tmp_path, settings)
    entries = [cached_features(fresh, query).clone() for query in MEDIA]
    for order in ([3, 2, 1, 0], [2], [1, 3]):
        shutil.rmtree(tmp_path / ".mmalign")
        for last in range(1, len(order) + 1):
            grown, report = attached(tmp_path, settings, [MEDIA[index] for index in order[:last]])
            assert (report.hits, report.made) == (last - 1, 1)
        assert all(torch.equal(cached_features(grown, MEDIA[index]), entries[index]) for index in order)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_media_beyond_limit_run_live_with_same_bits(
    tmp_path: Path, settings: Settings, model: Any, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    settings = changed(settings, "features", dtype=dtype)
    whole, report = attached(tmp_path, settings)
    expected = projected(model, whole)
    shutil.rmtree(tmp_path / ".mmalign")
    first, second = (cached_features(whole, query).nbytes for query in MEDIA[:2])
    capsys.readouterr()
    partial, report = attached(tmp_path, changed(settings, "features", max_gb=(first + second) / 1e9))
    assert (report.made, report.live) == (2, 2)
    assert "about 2 fit, and the vision tower runs the other 2 in every pass" in capsys.readouterr().out
    media = [partial.policy_root(query).media[0] for query in MEDIA]
    assert [isinstance(medium, UncachedMedium) for medium in media] == [False, False, True, True]
    assert same(projected(model, partial), expected)


def test_zero_budget_runs_all_media_live(tmp_path: Path, settings: Settings, model: Any) -> None:
    expected = projected(model, attached(tmp_path, settings)[0])
    shutil.rmtree(tmp_path / ".mmalign")
    nothing, report = attached(tmp_path, changed(settings, "features", max_gb=0.0))
    assert (report.made, report.live) == (0, 4)
    assert same(projected(model, nothing), expected)


@torch.no_grad()
def test_bf16_cache_halves_bytes_and_returns_model_dtype(tmp_path: Path, settings: Settings, model: Any) -> None:
    whole, full = attached(tmp_path, settings)
    exact = [cached_features(whole, query) for query in MEDIA]
    half, report = attached(tmp_path, changed(settings, "features", dtype="bf16"))
    assert report.made == 4
    assert report.bytes_a_medium == pytest.approx(full.bytes_a_medium / 2, rel=0.1)  # each tensor is padded to 64 bytes
    for query, features in zip(MEDIA, exact, strict=True):
        assert torch.equal(cached_features(half, query), features.bfloat16())
    assert {item.dtype for item in projected(model, half)} == {torch.float32}


@pytest.mark.parametrize(
    ("section", "keys", "message"),
    [
        ("features", {"cache": False}, "features.cache is false"),
        ("training", {"parts": {"tower": 0.5, "projector": 1.0, "language_model": 1.0, "lm_head": 1.0}}, "the vision tower is trained"),
    ],
)
def test_disabled_cache_is_logged(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str], section: str, keys: dict[str, object], message: str
) -> None:
    off = parse_settings(settings.model_dump(by_alias=True) | {section: getattr(settings, section).model_dump() | keys}, "test")
    preprocessor, report = attached(tmp_path, off)
    assert preprocessor.features is None
    assert report == FeatureReport()
    assert message in capsys.readouterr().out
    assert not (tmp_path / ".mmalign").exists()


def edit(base: Path, part: str) -> None:
    weights = load_file(base / "model.safetensors")
    name = next(name for name in weights if part in name)
    weights[name][0] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("part", "hits"), [("language_model", 4), ("multi_modal_projector", 4), ("vision_tower", 0)])
def test_models_share_entries_while_their_towers_are_equal(tmp_path: Path, settings: Settings, part: str, hits: int) -> None:
    attached(tmp_path, settings)
    shutil.copytree(tmp_path / "data/base", tmp_path / "trained")
    edit(tmp_path / "trained", part)
    assert attached(tmp_path, settings, base=tmp_path / "trained")[1].hits == hits


@pytest.mark.parametrize(
    ("name", "key", "value"), [("config.json", "vision_feature_layer", -2), ("tokenizer_config.json", "model_max_length", 5000)]
)
def test_changed_vision_or_processor_settings_miss(tmp_path: Path, settings: Settings, name: str, key: str, value: float) -> None:
    attached(tmp_path, settings)
    path = tmp_path / "data/base" / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert attached(tmp_path, settings)[1].hits == 0


def test_changed_media_are_miss(tmp_path: Path, settings: Settings) -> None:
    attached(tmp_path, settings)
    assert attached(tmp_path, settings, [remade(MEDIA[0], digest="other bytes")])[1].hits == 0
    assert attached(tmp_path, changed(settings, "model", max_frames=2), MEDIA[:1])[1].hits == 0
    assert attached(tmp_path, changed(settings, "model", background="#000000"), MEDIA[:1])[1].hits == 0


@pytest.mark.parametrize(
    ("section", "keys"), [("training", {"precision": "bf16"}), ("training", {"threads": 3}), ("features", {"dtype": "bf16"})]
)
def test_changed_arithmetic_changes_key(tiny_base: Path, settings: Settings, section: str, keys: dict[str, object]) -> None:
    device = torch.device("cpu")
    assert context_digest(tiny_base, changed(settings, section, **keys), device) != context_digest(tiny_base, settings, device)


def test_vision_digest_ignores_prefix_and_dtype(tmp_path: Path, tiny_base: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    weights = {f"model.{name}": weight.double() for name, weight in load_file(other / "model.safetensors").items()}
    halves = sorted(weights)
    for number, names in enumerate((halves[::2], halves[1::2])):
        save_file({name: weights[name] for name in names}, other / f"model-{number}.safetensors", metadata={"format": "pt"})
    (other / "model.safetensors").unlink()
    assert vision_digest(other) == vision_digest(tiny_base)


def shards(root: Path) -> list[Path]:
    return sorted((root / ".mmalign/cache/features").glob("*.shard"))


def test_torn_shard_is_recomputed(tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = attached(tmp_path, settings)
    expected = [cached_features(first, query).clone() for query in MEDIA]
    (shard,) = shards(tmp_path)
    shard.write_bytes(shard.read_bytes()[:100])
    repaired, report = attached(tmp_path, settings)
    assert "is torn: a later run recomputes its 4 media" in capsys.readouterr().out
    assert (report.hits, report.made, report.damaged) == (0, 4, 4)
    assert same([cached_features(repaired, query) for query in MEDIA], expected)


@pytest.mark.parametrize("when", ["before the run", "when it is read"])
def test_damaged_entry_is_logged_and_recomputed(
    tmp_path: Path, settings: Settings, model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    expected = projected(model, attached(tmp_path, settings)[0])
    (shard,) = shards(tmp_path)
    content = bytearray(shard.read_bytes())
    content[5] ^= 255
    shard.write_bytes(content)
    if when == "when it is read":
        monkeypatch.setattr(feature_cache, "CHECKED_AT_ONCE_BYTES", 0)
    preprocessor, report = attached(tmp_path, settings)
    assert (report.hits, report.made) == ((3, 1) if when == "before the run" else (4, 0))
    assert same(projected(model, preprocessor), expected)
    assert "damaged" in capsys.readouterr().out
    assert attached(tmp_path, settings)[1].made == (0 if when == "before the run" else 1)


def test_eviction_takes_other_runs_entries_only(tmp_path: Path, settings: Settings) -> None:
    """Four runs with room for three media: each retains its own entries and the most recently used others."""
    _, report = attached(tmp_path, settings, MEDIA[:1])
    size = int(report.bytes_a_medium)
    tight = changed(settings, "features", max_gb=3 * size / 1e9)
    small = [remade(MEDIA[0], digest=name) for name in "abcd"]  # square pictures, all of one size
    attached(tmp_path, tight, small[:1])
    attached(tmp_path, tight, small[1:2])
    attached(tmp_path, tight, MEDIA[:1])  # used again
    _, report = attached(tmp_path, tight, small[2:3])
    assert (report.made, report.evicted_shards) == (1, 1)
    assert [attached(tmp_path, tight, [query])[1].hits for query in (MEDIA[0], small[1], small[2])] == [1, 1, 1]
    _, report = attached(tmp_path, changed(settings, "features", max_gb=2 * size / 1e9), [MEDIA[0], small[1], small[3]])
    assert (report.hits, report.made, report.live, report.evicted_shards) == (2, 0, 1, 1)


def test_killed_fill_leaves_finished_entries(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = feature_cache.run_vision_tower, []

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:  # one to learn the size of an entry, and two entries
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(feature_cache, "run_vision_tower", failing)
    with pytest.raises(KeyboardInterrupt):
        attached(tmp_path, settings)
    monkeypatch.setattr(feature_cache, "run_vision_tower", real)
    _, report = attached(tmp_path, settings)
    assert (report.hits, report.made) == (2, 2)


def test_fill_waits_for_other_process(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(feature_cache, "LOCK_SECONDS", 0.05)
    with FeatureStore(Checkout(tmp_path)) as other:
        other.lock.acquire()
        monkeypatch.setattr(feature_cache, "_log", lambda text: (print(text), other.lock.release(force=True)))
        _, report = attached(tmp_path, settings)
    assert "waiting for another process" in capsys.readouterr().out
    assert report.made == 4


def test_blank_media_and_prompts_without_media_stay_as_they_are(tmp_path: Path, settings: Settings) -> None:
    preprocessor, _ = attached(tmp_path, settings)
    blank = preprocessor.judge_root(MEDIA[0], "Judge it.", blank=True).media[0]
    assert blank.features is None
    assert not isinstance(blank, UncachedMedium)
    text = next(query for query in queries() if not query.media)
    assert preprocessor.policy_root(text).media == ()


def test_vision_model_is_whole_under_zero_3() -> None:
    from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

    active = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    try:
        with whole_weights():
            assert not is_deepspeed_zero3_enabled()
        assert is_deepspeed_zero3_enabled()
    finally:
        unset_hf_deepspeed_config()
        del active


@pytest.mark.parametrize("name", sorted(BUILDERS))
@torch.no_grad()
def test_every_family_is_cached(tmp_path: Path, tiny_base: Path, tiny_media: Path, name: str) -> None:
    """One batch mixes cached, live and uncached media, with the rows of deeper layers."""
    settings = save_checkout(tmp_path, tiny_base, tiny_media)
    base = BUILDERS[name](tmp_path / "family")
    model = load_model(base)
    live = Preprocessor(base, tmp_path / "data/preferences", settings.model, settings.features)
    expected = TreeModel(model)(build_batch([policy_tree(live, query) for query in queries()], 300, "cpu", 0))
    first = attached(tmp_path, settings, MEDIA[:1], base)[1]
    tight = changed(settings, "features", max_gb=(first.gigabytes * 1e9 + 64) / 1e9)
    for chosen in (settings, tight):
        shutil.rmtree(tmp_path / ".mmalign")
        preprocessor, report = attached(tmp_path, chosen, MEDIA[:3], base)
        assert report.made == (3 if chosen is settings else 1)
        log_probs = TreeModel(model)(build_batch([policy_tree(preprocessor, query) for query in queries()], 300, "cpu", 0))
        torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=1e-6)
    edit(base, "embed_tokens")
    assert attached(tmp_path, settings, MEDIA[:1], base)[1].hits == 1


def test_adapters_share_vision_digest_of_base(tmp_path: Path, tiny_base: Path) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "base.json").write_text(json.dumps({"path": os.path.relpath(tiny_base, folder), "digest": model_digest(tiny_base)}))
    assert vision_digest(folder) == vision_digest(tiny_base)
