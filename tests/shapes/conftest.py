"""The bed's checkpoint of each family that the fast tests open."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.families.hub.published import table
from tests.shapes.bed import build

# A profile of each family, the smaller one where there are two.
FAMILIES = {
    "internvl": "InternVL3-1B-hf",
    "llava_onevision": "llava-onevision-qwen2-0.5b-ov-hf",
    "qwen2_5_vl": "Qwen2.5-VL-7B-Instruct",
    "qwen2_vl": "Qwen2-VL-7B-Instruct",
    "qwen3_vl": "Qwen3-VL-8B-Instruct",
}


@pytest.fixture(scope="package", params=sorted(FAMILIES))
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of the bed, whose name is that of its real one; heads of 8 and one layer for the tests' speed."""
    name = FAMILIES[request.param]
    assert table()[name].config["model_type"] == request.param
    return build(name, tmp_path_factory.mktemp("bed") / name, head=8, layers=1)
