"""Pictures as data URLs: which bytes are sent, and what happens above the cap."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.endpoints.pictures import exact_picture, fitting_picture
from components.endpoints.request import Picture, Request, UnsendablePicture

MEGABYTE = 1_000_000


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8), mode)


def exact(path: Path, limit: int = MEGABYTE) -> Picture:
    return exact_picture("digest", lambda: Image.open(path).convert("RGB"), path, limit)


def decoded(url: str) -> tuple[str, bytes]:
    head, _, content = url.partition(";base64,")
    return head, base64.b64decode(content)


@pytest.mark.parametrize(("name", "kind"), [("a.png", "png"), ("a.jpg", "jpeg"), ("a.webp", "webp")])
def test_plain_file_is_sent_as_it_is(tmp_path: Path, name: str, kind: str) -> None:
    noise(40, 30).save(tmp_path / name)
    assert decoded(exact(tmp_path / name).url()) == (f"data:image/{kind}", (tmp_path / name).read_bytes())


@pytest.mark.parametrize("case", ["gray", "transparent", "turned", "bitmap"])
def test_other_file_is_sent_as_the_pixels_that_are_read(tmp_path: Path, case: str) -> None:
    path = tmp_path / ("a.jpg" if case == "turned" else "a.bmp" if case == "bitmap" else "a.png")
    image = noise(20, 30, {"gray": "L", "transparent": "RGBA"}.get(case, "RGB"))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, **({"exif": exif} if case == "turned" else {}))
    kind, content = decoded(exact(path).url())
    assert kind == "data:image/png"
    sent = np.asarray(Image.open(io.BytesIO(content)))
    assert sent.shape == (30, 20, 3)
    np.testing.assert_array_equal(sent, np.asarray(Image.open(path).convert("RGB")))


def test_picture_without_a_file_is_sent_as_png() -> None:
    gray = Image.new("RGB", (6, 4), (128,) * 3)
    kind, content = decoded(exact_picture("digest", lambda: gray, None, MEGABYTE).url())
    assert (kind, Image.open(io.BytesIO(content)).size) == ("data:image/png", (6, 4))


def test_picture_above_the_cap_is_not_sent_exactly(tmp_path: Path) -> None:
    noise(100, 100).save(tmp_path / "a.png")
    size = (tmp_path / "a.png").stat().st_size
    exact(tmp_path / "a.png", size).url()
    with pytest.raises(UnsendablePicture, match=r"takes 0.0 MB, more than endpoint.max_image_mb"):
        exact(tmp_path / "a.png", size - 1).url()


def test_fitting_picture_is_halved_until_it_fits(tmp_path: Path) -> None:
    noise(400, 200).save(tmp_path / "a.png")
    limit = 20_000
    kind, content = decoded(fitting_picture(tmp_path / "a.png", limit).url())
    assert kind == "data:image/jpeg"
    assert len(content) <= limit
    assert Image.open(io.BytesIO(content)).size in {(200, 100), (100, 50)}
    assert decoded(fitting_picture(tmp_path / "a.png", MEGABYTE).url()) == ("data:image/png", (tmp_path / "a.png").read_bytes())
    with pytest.raises(UnsendablePicture, match=r"a\.png does not fit"):
        fitting_picture(tmp_path / "a.png", 100).url()


@pytest.mark.parametrize(
    "change",
    [
        {"text": "Why?"},
        {"max_tokens": 9},
        {"system": "Be brief."},
        {"temperature": None},
        {"temperature": 0.7},
        {"identity": "other weights"},
        {"pictures": (Picture("other bytes", str),)},
        {"pictures": ()},
    ],
)
def test_key_changes_with_all_that_a_text_depends_on(change: dict[str, object]) -> None:
    request = Request.asking("What?", 8, (Picture("bytes", str),))
    changed = Request.asking(**{"text": "What?", "max_tokens": 8, "pictures": (Picture("bytes", str),)} | change)  # type: ignore[arg-type]
    assert changed.key("writer") != request.key("writer")
    assert request.key("writer") != request.key("another")
    assert request.key("writer") == Request.asking("What?", 8, (Picture("bytes", lambda: "never built"),)).key("writer")


def test_pictures_stand_before_the_text_in_the_message() -> None:
    body = Request.asking(
        "What?", 8, (Picture("1", lambda: "data:1"), Picture("2", lambda: "data:2")), system="Be brief.", temperature=None
    ).body("m")
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:1"}},
                {"type": "image_url", "image_url": {"url": "data:2"}},
                {"type": "text", "text": "What?"},
            ],
        },
    ]
    assert not {"temperature", "top_p"} & set(body)
