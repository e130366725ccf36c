"""Media that teams have, through the real stage `validate` and the real preprocessor. Each case lies in a folder of its own below one checkout."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.families.processing import Preprocessor
from components.preferences.record import Query
from tests.validation.conftest import DataCheckout

CASES = Path(__file__).parent
NAMES = (
    "01-exif-orientation",
    "02-16-bit-grey",
    "03-transparent-png",
    "04-frames-unpadded",
    "06-file-names",
    "07-non-utf8-frame-name",
    "11-file-kinds",
    "14-thin-and-tiny-images",
)
ORANGE = (255, 128, 0)
LENIENT: dict[str, dict[str, Any]] = {"validate": {"max_quarantined_share": 1.0, "heldout_share": 0.5}}


@dataclass
class Validated:
    """One run of the stage over all cases: queries and reasons by id, and what it logged."""

    checkout: DataCheckout
    queries: dict[str, Query]
    reasons: dict[str, str]
    log: str

    def preprocessor(self, background: str = "#ffffff") -> Preprocessor:
        base = self.checkout.base
        settings = ModelSettings(base=base, attention="sdpa", max_length=512, max_frames=12, background=background)
        return Preprocessor(base, self.checkout.preferences, settings, FeatureSettings(pixels_max_gb=1))

    def pixels(self, name: str, background: str = "#ffffff") -> np.ndarray[Any, Any]:
        return np.asarray(self.preprocessor(background).load_image(self.queries[name].media[0], blank=False))


class Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage() + "\n"


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Validated:
    checkout = DataCheckout(tmp_path_factory.mktemp("cases"), tiny_base)
    checkout.preferences.mkdir(parents=True)
    rows = [checkout.row(number) for number in range(4)]
    for name in NAMES:
        shutil.copytree(CASES / name, checkout.preferences / name)
        for line in (CASES / name / "rows.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows.append(
                row
                | {
                    key: f"{name}/{row[key]}"
                    for key in ("image", "video")
                    if isinstance(row[key], str) and row[key].find(":") < 0 < len(row[key])
                }
            )
    folder = checkout.preferences / "07-non-utf8-frame-name/video/old"
    folder.mkdir(parents=True)
    for frame in (b"01.png", b"02\xe9.png"):
        Image.new("RGB", (64, 64)).save(folder / os.fsdecode(frame))
    for size in ((3, 40), (40, 3), (3, 3), (32, 32)):
        name = "{}x{}".format(*size)
        for path in (f"plain/{name}.png", f"plain/{name}/1.png", f"plain/{name}/2.png"):
            (checkout.preferences / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, ORANGE).save(checkout.preferences / path)
        rows.append(checkout.row(8, id=f"image {name}", image=f"plain/{name}.png"))
        rows.append(checkout.row(9, id=f"video {name}", image="", video=f"plain/{name}"))
    messages = Messages()
    logging.getLogger("components.validation").addHandler(messages)
    checkout.write("data.jsonl", rows)
    checkout.run(**LENIENT)
    logging.getLogger("components.validation").removeHandler(messages)
    queries = {query.id: query for split in ("train", "heldout") for query in checkout.queries(split)}
    reasons = {rows[entry["line"] - 1]["id"]: f"{entry['field']}: {entry['reason']}" for entry in checkout.quarantine()}
    assert len(queries) + len(reasons) == len(rows)
    return Validated(checkout, queries, reasons, messages.text)


def ids(name: str) -> list[str]:
    return [json.loads(line)["id"] for line in (CASES / name / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_turned_phone_photo_is_read_upright(validated: Validated) -> None:
    phone, upright = ids("01-exif-orientation")
    assert validated.queries[phone].media[0].size == validated.queries[upright].media[0].size == (64, 32, 1)
    shown = [validated.pixels(name).astype(int) for name in (phone, upright)]
    assert np.abs(shown[0] - shown[1]).max() < 40  # both are JPEGs, of blocks that lie otherwise
    assert np.median(shown[0][:, :24], axis=(0, 1)).argmax() == 0  # left red
    assert np.median(shown[0][:, 40:], axis=(0, 1)).argmax() == 2  # right blue


def test_deep_gray_shows_its_square(validated: Validated) -> None:
    assert (validated.pixels("grey16") == validated.pixels("grey8")).all()
    assert sorted(np.unique(validated.pixels("greyf"))) == [26, 204]


@pytest.mark.parametrize("background", ["#ffffff", "#00ff00"])
def test_transparent_ring_lies_on_background(validated: Validated, background: str) -> None:
    (name,) = ids("03-transparent-png")
    colors = {tuple(color) for color in validated.pixels(name, background).reshape(-1, 3).tolist()}
    assert {(0, 0, 0), tuple(bytes.fromhex(background[1:]))} <= colors


def test_frames_come_in_order_of_their_numbers(validated: Validated) -> None:
    (name,) = ids("04-frames-unpadded")
    shown = validated.preprocessor().load_frames(validated.queries[name].media[0], blank=False)
    assert [int(np.asarray(frame).mean()) for frame in shown] == [20 * number for number in range(1, 13)]


@pytest.mark.parametrize("name", ids("06-file-names"))
def test_name_from_other_machine_is_used(validated: Validated, name: str) -> None:
    assert validated.pixels(name).size
    assert "cafe\u0301.png" in {path.name for path in (validated.checkout.preferences / "06-file-names/short").iterdir()}


def test_frame_name_that_is_not_utf8_is_refused(validated: Validated) -> None:
    assert "/old/02\\udce9.png' has a name that is not UTF-8" in validated.reasons["old-clip"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("avif", "AVIF"),
        ("mp4", "ffmpeg -i 11-file-kinds/video/clip.mp4"),
        ("html", "HTML"),
        ("upper", "on disk it is '11-file-kinds/short/r.png'"),
        ("back", "on disk it is '11-file-kinds/short/r.png'"),
        ("url", "is an address"),
        ("b64", "is an address"),
        ("obj", "dict"),
    ],
)
def test_file_that_cannot_be_read_is_named(validated: Validated, name: str, reason: str) -> None:
    assert reason in validated.reasons[name]


@pytest.mark.parametrize("name", ["gif", "webp", "apng", "tail", "tiff", "cmyk"])
def test_odd_file_shows_its_red(validated: Validated, name: str) -> None:
    assert np.abs(validated.pixels(name)[5, 5].astype(int) - [255, 0, 0]).max() <= 2


def test_palette_and_gray_with_alpha_lie_on_white(validated: Validated) -> None:
    assert (validated.pixels("pal") == 255).all(axis=2).any()
    assert set(np.unique(validated.pixels("gray2"))) == {200}


def test_animations_are_reported_once(validated: Validated) -> None:
    assert validated.log.count("are animations or have several pages") == 1
    assert "4 media are animations or have several pages" in validated.log


@pytest.mark.parametrize("name", ids("14-thin-and-tiny-images"))
def test_thin_and_tiny_media_have_their_length(validated: Validated, name: str) -> None:
    query, preprocessor = validated.queries[name], validated.preprocessor()
    assert len(preprocessor.policy_root(query).input_ids) == preprocessor.policy_length(query)
    if query.kinds == ("video",):
        assert len({frame.size for frame in preprocessor.load_frames(query.media[0], blank=False)}) == 1


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("size", ["3x40", "40x3", "3x3"])
def test_side_of_three_is_no_color_axis(validated: Validated, kind: str, size: str) -> None:
    """The processor gives every pixel of a plain color the three values that it gives those of an ordinary square."""
    preprocessor = validated.preprocessor()

    def values(name: str) -> torch.Tensor:
        (medium,) = preprocessor.policy_root(validated.queries[name]).media
        (tensor,) = (tensor for key, tensor in medium.tensors.items() if key.startswith("pixel_values"))
        return tensor[0, 0]  # the whole image, or the first frame: [3, H, W]

    plain = values(f"{kind} 32x32")[:, :1, :1]
    assert plain[0] > plain[1] > plain[2]
    assert torch.allclose(values(f"{kind} {size}"), plain, atol=0.02)
