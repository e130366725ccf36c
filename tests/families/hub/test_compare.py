"""`mmalign model verify` on a checkpoint of the bed, which differs from its published one in depth and width alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.families.hub import compare
from components.families.hub.published import Field, sources, table
from tests.families.checkpoints import BUILDERS
from tests.families.hub.page import PAGE, page
from tests.shapes.bed import build, smaller

NAME = "InternVL3-1B-hf"
SIZES = {"hidden_size", "intermediate_size", "num_hidden_layers", "max_window_layers"}


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(NAME, tmp_path_factory.mktemp("bed") / NAME, head=8, layers=1)


def test_bed_differs_in_depth_and_width_alone(bed: Path) -> None:
    config = json.loads((bed / "config.json").read_text())
    published = compare.published_of(bed, config)
    assert published is table()[NAME]
    assert compare.faults(bed) == []
    differing = {one.field.removeprefix("config.json: ") for one in compare.differences(bed, published)}
    assert differing == set(smaller(NAME, 8, 1))
    assert {name.split(".")[-1] for name in differing} <= SIZES


def test_changed_files_are_listed(bed: Path, tmp_path: Path) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    for path in bed.iterdir():
        (folder / path.name).hardlink_to(path)
    for name, old, new in (
        ("config.json", '"image_token_id": 151667', '"image_token_id": 151666'),
        ("preprocessor_config.json", '"max_patches": 12', '"max_patches": 6'),
        ("chat_template.jinja", "<IMG_CONTEXT>\\n", "<IMG_CONTEXT>"),
        ("tokenizer.json", "<quad>", "<quod>"),
        ("tokenizer_config.json", "<quad>", "<quod>"),
    ):
        text = (bed / name).read_text()
        assert old in text
        (folder / name).unlink()
        (folder / name).write_text(text.replace(old, new))
    listed = {one.field: (one.value, one.expected) for one in compare.differences(folder, table()[NAME])}
    assert listed["config.json: image_token_id"] == (151666, 151667)
    assert listed["image processor: max_patches"] == (6, 12)
    assert listed["chat template: a question about an image"][0].count("\n") + 1 == listed["chat template: a question about an image"][
        1
    ].count("\n")
    assert listed["tokenizer: <quad>"][1] == (151668, True)


def test_unknown_checkpoint_is_no_profiles(tmp_path: Path) -> None:
    folder = BUILDERS["internvl"](tmp_path)
    assert compare.published_of(folder, json.loads((folder / "config.json").read_text())) is None
    assert compare.faults(folder) == []


def test_every_field_has_a_source() -> None:
    for name, published in table().items():
        assert {field.source for field in published.fields} <= set(sources()), name
        assert published.profile in PAGE.read_text()
    assert Field("tokenizer", "<video>", 151674, "guess") in table()[NAME].guessed


def test_page_is_the_table() -> None:
    assert PAGE.read_text() == page()
