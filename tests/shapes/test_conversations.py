"""Conversations about several photographs at true shapes, against the processor's own call on the whole: tokens, pixels, positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.families.processing import Preprocessor
from tests.families.conversations import assert_equal, conversations, expected
from tests.shapes.photographs import save_photographs

PHOTOGRAPHS = ("coffee.jpg", "rocket.jpg", "astronaut.jpg", "cat.jpg")
CONVERSATIONS = conversations(PHOTOGRAPHS, video=False)
INSTRUCTION = "Judge it:"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    save_photographs(folder, PHOTOGRAPHS)
    return folder


@pytest.mark.parametrize(
    "name", ["three in two turns", *(pytest.param(name, marks=pytest.mark.slow) for name in ("several first", "at the end", "system"))]
)
def test_conversation_reads_as_its_own_processor_reads_it(bed: Path, media: Path, name: str) -> None:
    settings = ModelSettings(base=bed, attention="sdpa", max_length=100_000, max_frames=8)
    reader, query = Preprocessor(bed, media, settings, FeatureSettings(pixels_max_gb=0)), CONVERSATIONS[name]
    root = reader.policy_root(query)
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(bed)).model
    # LLaVA-OneVision's template moves a turn's pictures to its front: those within a text stand there as placeholders.
    assert_equal(root, expected(reader, query, within="llava" in bed.name), model)
    sized = replace(query, media=tuple(replace(medium, size=reader.media_size(medium)) for medium in query.media))
    judged = len(reader.judge_root(query, INSTRUCTION).input_ids)
    reader.media_root = media / "nothing"  # lengths open no medium
    assert reader.policy_length(sized) == len(root.input_ids)
    assert reader.judge_length(sized, INSTRUCTION) == judged
