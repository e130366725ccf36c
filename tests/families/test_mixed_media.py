"""Prompts with media of several kinds and sizes, against transformers' own processor and forward where it can read them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from components.families.loading import load_model
from components.trees.logprobs import TreeModel
from components.trees.trees import build_batch
from tests.families.checkpoints import BUILDERS
from tests.families.prompts import Opened, Prompt, clip, image
from tests.families.test_checkpoint_faults import preprocessor

MIXED = Prompt("What changed?", ("The light.", "Nobody came, it seems."), images=(image(48, 32), image(32, 32)), videos=(clip(4),))
UNEQUAL = Prompt("Which is longer?", ("The second.", "Neither"), videos=(clip(4), clip(6, 64, 32)))


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = BUILDERS[request.param](tmp_path_factory.mktemp(request.param))
    return Opened(folder, load_model(folder), preprocessor(folder))


@torch.no_grad()
def test_images_beside_video_read_as_transformers_reads_them(opened: Opened) -> None:
    root = opened.root(MIXED)
    assert [medium.kind for medium in root.media] == ["image", "image", "video"]
    assert list(root.input_ids) == opened.encoded(MIXED)["input_ids"][0].tolist()
    tree = opened.tree(MIXED)
    sums = TreeModel(opened.model)(build_batch([tree], 1, "cpu", 0))
    for branch, total in zip(tree.branches, sums, strict=True):
        logits = opened.branch_logits(MIXED, branch)
        expected = logits.log_softmax(-1).gather(1, torch.tensor(branch.input_ids)[:, None]).sum()
        torch.testing.assert_close(total, expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_videos_of_unequal_size_have_their_own_features(opened: Opened) -> None:
    root = opened.root(UNEQUAL)
    family, config = opened.preprocessor.family, opened.model.config
    placeholders = sum(token in family.placeholder_ids(config) for token in root.input_ids)
    rows = 0
    for number, video in enumerate(UNEQUAL.videos):
        single = opened.root(Prompt("", ("",), videos=(video,))).media[0]
        for name, tensor in single.tensors.items():
            assert torch.equal(root.media[number].tensors[name], tensor)
        rows += len(family.project(opened.model, [single], family.vision_tower(opened.model, [single]))[0].features_LH)
    assert placeholders == rows
    both = TreeModel(opened.model)(build_batch([opened.tree(UNEQUAL)], 1, "cpu", 0))
    assert bool(torch.isfinite(both).all())


@torch.no_grad()
def test_media_have_prompts_order(opened: Opened) -> None:
    reader: Any = opened.preprocessor
    processor = reader.processor
    marks = [processor.video_token, processor.image_token, processor.video_token]
    wrap = (lambda mark: f"<|vision_start|>{mark}<|vision_end|>") if "qwen" in opened.model.config.model_type else str
    text = "Before" + "then".join(wrap(mark) for mark in marks) + "after"
    root = reader.family.encode(processor, reader.config, text, [image(32, 32)], [clip(4), clip(2)], ["a", "b", "c"])
    assert [(medium.kind, medium.key) for medium in root.media] == [("video", "a"), ("image", "b"), ("video", "c")]
    with pytest.raises(ValueError, match="1 images and 2 videos, not of 0 and 2"):
        reader.family.encode(processor, reader.config, text, [], [clip(4), clip(2)], ["a", "c"])
