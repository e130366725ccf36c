"""`mmalign data show`: the pictures, texts and marks are those of training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.checkout import Checkout
from components.errors import UserError
from components.report.shown import Shown, show_row
from tests.conftest import ROOT
from tests.validation.conftest import DataCheckout

INSTRUCTION = "Judge it."


@pytest.fixture
def made(tmp_path: Path, tiny_base: Path) -> DataCheckout:
    checkout = DataCheckout(tmp_path / "checkout", tiny_base)
    checkout.preferences.mkdir(parents=True)
    return checkout


def shown(made: DataCheckout, out: Path, *rows: dict[str, Any], line: int = 1, source: str = "annotated") -> Shown:
    made.write("own.jsonl", list(rows))
    settings = made.settings(reward={"critique_source": source, "instruction": INSTRUCTION})
    return show_row(f"{made.preferences / 'own.jsonl'}:{line}", out, settings, Checkout(made.root))


def test_pictures_are_those_that_are_read(made: DataCheckout, tmp_path: Path) -> None:
    row = made.row(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    colors = np.random.default_rng(0).integers(0, 255, (32, 64, 3), dtype=np.uint8)
    Image.fromarray(colors).save(made.preferences / row["image"], exif=exif)
    result = shown(made, tmp_path / "out", row)
    assert result.media == [["medium-1.png"]]
    with Image.open(tmp_path / "out/medium-1.png") as written:
        assert (np.asarray(written) == np.rot90(colors, -1)).all()


def test_each_medium_of_a_row_is_written(made: DataCheckout, tmp_path: Path) -> None:
    paths = [made.picture("a.png", 1), made.picture("b.png", 2)]
    result = shown(made, tmp_path / "out", made.row(1, image=paths, question="Compare <image> and <image>."))
    assert result.media == [["medium-1.png"], ["medium-2.png"]]
    made.picture("clip/1.png", 1)
    made.picture("clip/2.png", 2)
    clip = shown(made, tmp_path / "clip", made.row(2, image="", video="clip"))
    assert clip.media == [["medium-1/frame-001.png", "medium-1/frame-002.png"]]
    assert all((tmp_path / "clip" / name).is_file() for name in clip.media[0])


def test_loss_of_policy_is_on_response_and_its_end(made: DataCheckout, tmp_path: Path) -> None:
    (branch, *_) = shown(made, tmp_path / "out", made.row(1)).policy.branches
    assert ("".join(branch.tokens), all(branch.loss)) == ("A dog.<|im_end|>", True)


@pytest.mark.parametrize(("source", "learned"), [("annotated", "Right.<|im_end|>"), ("none", "")])
def test_loss_of_judge_is_on_its_critique(made: DataCheckout, tmp_path: Path, source: str, learned: str) -> None:
    result = shown(made, tmp_path / "out", made.row(1), source=source)
    (branch, *_) = result.judge.branches
    assert "".join(token for token, loss in zip(branch.tokens, branch.loss, strict=True) if loss) == learned
    assert "".join(branch.tokens).startswith("A dog.<|im_end|>")
    assert f"{INSTRUCTION}\nQuestion: What is in picture 1?\nAnswer:\n" in result.judge.text


def test_response_without_critique_has_no_loss(made: DataCheckout, tmp_path: Path) -> None:
    result = shown(made, tmp_path / "out", made.row(1, score_reasons=["Right.", "", ""]))
    assert [any(branch.loss) for branch in result.judge.branches] == [True, False, False]


def test_longest_is_that_of_validation(made: DataCheckout, tmp_path: Path) -> None:
    row = made.row(1)
    result = shown(made, tmp_path / "out", row)
    made.write("data.jsonl", [row, made.row(2, models_output=["A", "B", "C"], score_reasons=[])])
    metrics = made.run(validate={"heldout_share": 0.5}, reward={"instruction": INSTRUCTION}).metrics
    assert result.longest == metrics["longest_tokens"]


def test_text_marks_tokens_and_counts_placeholders(made: DataCheckout, tmp_path: Path) -> None:
    result = shown(made, tmp_path / "out", made.row(1))
    text = (tmp_path / "out/shown.txt").read_text()
    assert "<image> x " in result.policy.text
    assert "\n* '<|im_end|>'\n" in text
    assert "\n  '.'\n" in text  # of the response, on which the judge's loss is not taken
    assert json.loads((tmp_path / "out/shown.json").read_text())["policy"]["length"] == result.policy.length


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        ("{file}", "names no row"),
        ("{file}:0", "names no row"),
        ("{file}:x", "names no row"),
        ("{file}:9", "no row that begins in line 9"),
        ("{folder}/absent.jsonl:1", "is no file"),
        ("{file}:2", r"own.jsonl:2: image: .* is text, not an image"),
        ("{file}:3", r"own.jsonl:3: the row is not valid JSON"),
    ],
)
def test_mistake_is_one_sentence(made: DataCheckout, tmp_path: Path, position: str, reason: str) -> None:
    (made.preferences / "text.png").write_text("No picture.")
    made.write("own.jsonl", [made.row(1), made.row(2, image="text.png"), "{no json"])
    settings = made.settings(reward={"critique_source": "annotated"})
    position = position.format(file=made.preferences / "own.jsonl", folder=made.preferences)
    with pytest.raises(UserError, match=reason):
        show_row(position, tmp_path / "out", settings, Checkout(made.root))
    assert not (tmp_path / "out").exists()


def test_files_in_out_are_not_overwritten(made: DataCheckout, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        shown(made, tmp_path / "out", made.row(1))


@pytest.mark.usefixtures("base")
def test_command_shows_bundled_row_as_json(tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).parent / "mmalign"),
        "data",
        "show",
        "data/preferences/data.jsonl:1",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    completed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=os.environ)
    assert json.loads(completed.stdout)["out"] == str(tmp_path / "out")
    assert (tmp_path / "out/shown.txt").is_file()
