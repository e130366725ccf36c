from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.checkout import Checkout
from components.config.settings import Settings, parse_settings
from components.errors import UserError
from components.rehearsal.devices import Machine, named_device, processor
from components.rehearsal.ledger import ledger
from components.rehearsal.plan import as_json, changed, footprints, make_plan, stage_fits, with_planned_source
from components.rehearsal.rate import Rate, fitting_layers, store_rate, store_training_rate
from tests.checkout import ROOT, write_base
from tests.rehearsal.tiny import settings
from tests.settings import shipped


def profile(name: str, **sections: dict[str, Any]) -> Settings:
    values = shipped()
    for section, keys in [*yaml.safe_load((ROOT / f"profiles/{name}.yaml").read_text()).items(), *sections.items()]:
        for key, value in keys.items():
            values[section][key] = {**values[section][key], **value} if isinstance(value, dict) else value
    return parse_settings(values, name)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml") if path.stem != "demo"))
def test_every_profile_fits_its_device(name: str, tmp_path: Path) -> None:
    assert make_plan(profile(name), Checkout(tmp_path), named_device("h100")).cures is None


def test_oversized_plan_proposes_changes_that_fit(tmp_path: Path) -> None:
    before = profile("qwen2.5-vl-7b", training={"gradient_checkpointing": "none", "zero_stage": 2})
    machine = named_device("a100-40gb")
    plan = make_plan(before, Checkout(tmp_path), machine)
    assert plan.cures
    after = changed(before, plan.cures)
    assert all(
        stage_fits(used, after, machine, name) for name, used in footprints(plan.model, after, Checkout(ROOT), "gpu", plan.workload).items()
    )
    without_the_last = changed(before, plan.cures[:-1])
    assert not all(
        stage_fits(used, without_the_last, machine, name)
        for name, used in footprints(plan.model, without_the_last, Checkout(ROOT), "gpu", plan.workload).items()
    )


def test_free_changes_are_proposed_first(tmp_path: Path) -> None:
    plan = make_plan(
        profile("llava-ov-0.5b", training={"batch_rows": 16, "gradient_checkpointing": "none"}),
        Checkout(tmp_path),
        named_device("a100-40gb"),
    )
    assert plan.cures
    assert plan.cures[0][0] == "training.batch_rows"
    assert "model.lora.rank" not in dict(plan.cures)


def test_plan_without_cure_is_reported(tmp_path: Path) -> None:
    assert make_plan(profile("llava-ov-7b"), Checkout(tmp_path), Machine("toy", "gpu", 2_000_000_000, seen=False)).cures == []


def test_ranks_share_memory_on_cpu(base: Path, tmp_path: Path) -> None:
    (tmp_path / "data/base").mkdir(parents=True)
    shutil.copy(base / "config.json", tmp_path / "data/base")
    one = make_plan(settings(features={"pixels_max_gb": 0}), Checkout(tmp_path), Machine("cpu", "cpu", 3_000_000_000, seen=True))
    assert one.budget() == 1_500_000_000
    assert one.cures is None
    assert (
        make_plan(settings(features={"pixels_max_gb": 0}), Checkout(tmp_path), Machine("cpu", "cpu", 2_000_000_000, seen=True)).cures
        is not None
    )


def test_time_needs_measured_rate(tmp_path: Path) -> None:
    data = tmp_path / "data/preferences"
    data.mkdir(parents=True)
    row = {"question": "x" * 350, "models_output": ["y" * 350, "z" * 350], "image": ""}
    (data / "data.jsonl").write_text("\n".join(json.dumps(row) for _ in range(100)))
    machine = named_device("h100")
    before = make_plan(profile("qwen3-vl-8b"), Checkout(tmp_path), machine)
    assert before.seconds["align"] is None
    store_rate(Checkout(tmp_path), before.settings, before.model, Rate(machine.name, 100.0, 1e12, 4, 36, 1, 8192, "2026-11-24"))
    after = make_plan(profile("qwen3-vl-8b"), Checkout(tmp_path), machine)
    # 100 rows, 80 % of them for training, 300 tokens each, 8 ranks of 100 tokens a second, one epoch
    assert after.seconds["align"] == pytest.approx(100 * 0.8 * 300 / 8 / 100)
    (data / "heldout.jsonl").write_text(json.dumps(row))
    assert make_plan(profile("qwen3-vl-8b"), Checkout(tmp_path), machine).seconds["align"] == pytest.approx(100 * 300 / 8 / 100)
    assert after.seconds["evaluate"] is None
    assert make_plan(profile("qwen3-vl-8b", training={"row_tokens": 16384}), Checkout(tmp_path), machine).seconds["align"] is None


def test_own_rate_of_a_training_takes_precedence(tmp_path: Path) -> None:
    data = tmp_path / "data/preferences"
    data.mkdir(parents=True)
    row = {"question": "x" * 350, "models_output": ["y" * 350, "z" * 350], "image": ""}
    (data / "data.jsonl").write_text("\n".join(json.dumps(row) for _ in range(100)))
    write_base(tmp_path / "data/base")
    chosen = settings(reward={"epochs": 1}, alignment={"epochs": 1})
    checkout = Checkout(tmp_path)
    store_training_rate(checkout, chosen, "align", 400.0)  # of both ranks together
    planned = make_plan(chosen, checkout, processor()).seconds
    assert planned["align"] == pytest.approx(100 * 0.8 * 300 / 400)
    assert planned["reward"] is None  # it computes otherwise, and has no rate yet
    assert planned["reference"] is not None
    store_training_rate(checkout, chosen, "reward", 200.0)
    assert make_plan(chosen, checkout, processor()).seconds["reward"] == pytest.approx(100 * 0.8 * 300 / 200)


def write_answers(folder: Path, reasons: list[str]) -> Checkout:
    """A hundred rows of 300 tokens, each with these reasons."""
    checkout = Checkout(folder)
    checkout.preferences.mkdir(parents=True)
    row = {"question": "x" * 350, "models_output": ["y" * 350, "z" * 350], "score_reasons": reasons, "image": ""}
    (checkout.preferences / "data.jsonl").write_text("\n".join(json.dumps(row) for _ in range(100)))
    write_base(folder / "data/base")
    return checkout


def test_rows_without_critiques_plan_no_generation_of_them(tmp_path: Path) -> None:
    bare, full = write_answers(tmp_path / "bare", ["", ""]), write_answers(tmp_path / "full", ["why", "why"])
    large = {"batch_size": 512, "max_new_tokens": 512}  # so that generation has the stage's peak
    without, mixed = (make_plan(settings(critique=large), one, processor()) for one in (bare, full))
    assert (without.settings.reward.critique_source, mixed.settings.reward.critique_source) == ("none", "mixed")
    assert as_json(without)["critique_source"] == "none"
    assert "key-value cache" in mixed.stages["critique"].device
    assert "key-value cache" not in without.stages["critique"].device
    assert without.stages["critique"].device_bytes < mixed.stages["critique"].device_bytes
    assert (
        "key-value cache" in make_plan(settings(critique=large, evaluate={"batch_size": 512}), bare, processor()).stages["evaluate"].device
    )
    for checkout in (bare, full):
        store_training_rate(checkout, settings(critique=large), "align", 400.0)
    without, mixed = (make_plan(settings(critique=large), one, processor()) for one in (bare, full))
    reference = without.seconds["reference"]
    assert reference is not None
    # Forward alone, as the reference log-probs, whose stage has as many ranks.
    assert without.seconds["critique"] == pytest.approx(reference)
    assert mixed.seconds["critique"] is None
    assert changed(without.settings, [("model.lora.rank", "4")]).reward.critique_source == "none"


def test_source_that_rows_can_not_feed_is_planned_with_a_note(tmp_path: Path) -> None:
    plan = make_plan(settings(reward={"critique_source": "annotated"}), write_answers(tmp_path, ["", ""]), processor())
    assert plan.settings.reward.critique_source == "annotated"
    assert plan.notes[0].startswith("reward.critique_source is annotated, but no training response has a critique (score_reasons): set")
    with pytest.raises(UserError, match="no training response has a critique"):
        with_planned_source(plan.settings, plan.workload)


def test_tables_without_critiques_take_bytes_of_scores(tmp_path: Path) -> None:
    bare, full = write_answers(tmp_path / "bare", ["", ""]), write_answers(tmp_path / "full", ["why", "why"])
    sizes = []
    for checkout in (bare, full):
        (volume,) = ledger(make_plan(settings(), checkout, processor()), checkout, ("critique",), None, lambda _: (1, 10**12))
        sizes.append({entry.what: entry.bytes for entry in volume.entries}["outputs of critique"])
    assert sizes == [200 * 200, 200 * 64 * 4]  # responses; bytes of a score with its keys, and of a critique's tokens


@pytest.mark.parametrize("count", [1, 0])
def test_few_small_pictures_take_their_own_pixels(tmp_path: Path, count: int) -> None:
    from PIL import Image

    data = tmp_path / "data/preferences"
    data.mkdir(parents=True)
    write_base(tmp_path / "data/base")
    Image.new("RGB", (40, 30)).save(data / "a.png")
    (data / "data.jsonl").write_text(json.dumps({"question": "q", "models_output": ["a", "b"], "image": "a.png"}) * count)
    plan = make_plan(settings(), Checkout(tmp_path), None)
    patches = plan.workload.medium.patches
    expected = patches * 16 * 16 * 3 * 4 if count else 2_000_000_000  # siglip's patches of 16 pixels, in fp32
    assert plan.stages["align"].host["pixels"] == expected


def test_heldout_media_and_responses_take_disk_too(tmp_path: Path) -> None:
    data = tmp_path / "data/preferences"
    data.mkdir(parents=True)
    write_base(tmp_path / "data/base")
    for name, images in (("data", "ab"), ("heldout", "bc")):
        rows = [{"question": "q", "models_output": ["a", "b", "c"], "image": f"{image}.png"} for image in images]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workload = make_plan(settings(), Checkout(tmp_path), None).workload
    assert (workload.queries, workload.responses, workload.media, workload.training_share) == (2, 12, 3, 1.0)


def test_features_above_limit_are_noted(tmp_path: Path) -> None:
    from PIL import Image

    data = tmp_path / "data/preferences"
    data.mkdir(parents=True)
    Image.new("RGB", (1024, 1024)).save(data / "a.png")
    (data / "data.jsonl").write_text(json.dumps({"question": "q", "models_output": ["a", "b"], "image": "a.png"}))
    plan = make_plan(profile("internvl3-1b", features={"max_gb": 0.001}), Checkout(tmp_path), None)
    assert plan.features_bytes == 10 * 1024 * 1024 * 2  # nine tiles and one of the whole image, 32 x 32 patches of 1024 in bf16
    assert any("features.max_gb" in note for note in plan.notes)


def test_missing_model_lists_planned_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mmalign model fetch") as error:
        make_plan(settings(model={"base": "data/models/nothing"}), Checkout(tmp_path), None)
    assert "InternVL3-1B-hf" in str(error.value)


def test_rate_is_measured_on_layers_that_fit() -> None:
    from components.rehearsal.architectures import PUBLISHED
    from components.rehearsal.parameters import architecture

    model = architecture(PUBLISHED["Qwen2.5-VL-7B-Instruct"])
    small = settings(training={"batch_rows": 1})
    counts = [fitting_layers(small, model, gigabytes * 10**9, 512) for gigabytes in (40, 80, 4000)]
    assert counts[0] < counts[1] < counts[2] == 28
    with pytest.raises(UserError, match="not one layer"):
        fitting_layers(small, model, 10**9, 512)
