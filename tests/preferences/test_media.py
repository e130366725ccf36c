"""The one reader of pictures: upright, in RGB, the pixels of transformers where that defines them."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image

from components.preferences.bounds import MediaError
from components.preferences.colors import WHITE
from components.preferences.media import (
    ORIENTATION,
    decoded_gray,
    locate,
    open_picture,
    pages,
    picture_size,
    read_frames,
    read_picture,
    similar,
)

MODES = {"JPEG": ("L", "RGB", "CMYK"), "PNG": ("1", "L", "P", "RGB"), "WEBP": ("RGB",), "TIFF": ("1", "L", "P", "RGB", "CMYK", "YCbCr")}


def noise(mode: str, size: tuple[int, int] = (24, 16)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form, modes in MODES.items() for mode in modes])
def test_pixels_are_those_of_transformers(tmp_path: Path, form: str, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    noise(mode).save(tmp_path / "x", form, exif=exif)
    ours = read_picture(tmp_path / "x", WHITE)
    theirs = load_image(Image.open(io.BytesIO((tmp_path / "x").read_bytes())))  # no path: PIL scrambles turned TIFFs that it maps
    assert (ours.mode, ours.size) == ("RGB", (16, 24) if orientation >= 5 else (24, 16))
    assert ours.tobytes() == theirs.tobytes()
    assert picture_size(tmp_path / "x") == ours.size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("form", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "RGB")])
def test_gray_is_that_of_the_colors(tmp_path: Path, form: str, mode: str, orientation: int) -> None:
    path = tmp_path / "picture"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.radial_gradient("L").resize((40, 24)).convert("RGB").convert(mode).save(
        path, form, exif=exif, **({"quality": 95} if form == "JPEG" else {})
    )
    with open_picture(path) as image:
        gray = decoded_gray(image, 128)
    colors = read_picture(path, WHITE).convert("L")
    assert (gray.mode, gray.size) == ("L", colors.size)
    assert np.abs(np.asarray(gray, np.int16) - np.asarray(colors, np.int16)).max() <= 2, "a decoder rounds once less"


@pytest.mark.parametrize(("side", "size"), [(64, (128, 96)), (96, (128, 96)), (48, (64, 48)), (200, (256, 192))])
def test_large_jpeg_comes_reduced_to_no_less_than_asked(tmp_path: Path, side: int, size: tuple[int, int]) -> None:
    path = tmp_path / "picture.jpg"
    Image.radial_gradient("L").resize((256, 192)).convert("RGB").save(path, quality=95)
    with open_picture(path) as image:
        gray = decoded_gray(image, side)
    assert gray.size == size
    colors = read_picture(path, WHITE).convert("L").resize(size, Image.Resampling.BOX)
    assert np.abs(np.asarray(gray, np.int16) - np.asarray(colors, np.int16)).max() <= 4


def test_truncated_jpeg_is_refused_in_gray_too(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(MediaError, match="truncated"), open_picture(path) as image:
        decoded_gray(image, 16)


def test_opaque_alpha_leaves_pixels_of_transformers(tmp_path: Path) -> None:
    noise("RGB").convert("RGBA").save(tmp_path / "x.png")
    assert read_picture(tmp_path / "x.png", "#123456").tobytes() == load_image(str(tmp_path / "x.png")).tobytes()


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\0" * 40])
def test_broken_exif_leaves_picture_as_stored(tmp_path: Path, exif: bytes) -> None:
    noise("RGB").save(tmp_path / "x.jpg", exif=exif)
    assert read_picture(tmp_path / "x.jpg", WHITE).size == (24, 16)


def test_orientation_out_of_range_is_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 9
    noise("RGB").save(tmp_path / "x.png", exif=exif)
    assert read_picture(tmp_path / "x.png", WHITE).tobytes() == noise("RGB").tobytes()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_picture_of_several_counts(tmp_path: Path, form: str) -> None:
    red, blue = (Image.new("RGB", (8, 8), color) for color in ("#ff0000", "#0000ff"))
    red.save(tmp_path / "x", form, save_all=True, append_images=[blue], **({"lossless": True} if form == "WEBP" else {}))
    red.save(tmp_path / "single", form)
    with open_picture(tmp_path / "x") as several, open_picture(tmp_path / "single") as single:
        assert (pages(several), pages(single)) == (True, False)
    assert read_picture(tmp_path / "x", WHITE).getcolors() == [(64, (255, 0, 0))]


def test_frames_have_size_of_first(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), "#ff0000").save(tmp_path / "0.png")
    Image.new("RGB", (10, 10), "#0000ff").save(tmp_path / "1.png")
    first, second = read_frames(tmp_path, ["0.png", "1.png"], "#00ff00")
    assert first.size == second.size == (40, 20)
    pixels = np.asarray(second)
    assert (pixels[:, :10] == [0, 255, 0]).all()
    assert (pixels[:, 10:30] == [0, 0, 255]).all()
    assert (pixels[:, 30:] == [0, 255, 0]).all()


@pytest.mark.parametrize(("path", "word"), [("absent.png", "exist"), ("", "folder"), ("text.png", "text"), ("empty.png", "empty")])
def test_what_cannot_be_read_is_media_error(tmp_path: Path, path: str, word: str) -> None:
    (tmp_path / "text.png").write_text("No picture.")
    (tmp_path / "empty.png").touch()
    with pytest.raises(MediaError, match=word):
        read_picture(tmp_path / path, WHITE)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_picture_is_named_as_such(tmp_path: Path, form: str) -> None:
    noise("RGB", (200, 200)).save(tmp_path / "x", form)
    content = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(content[: len(content) // 2])
    with pytest.raises(MediaError, match=r"truncated|damaged") as caught:
        read_picture(tmp_path / "x", WHITE)
    assert caught.value.kind == "media_undecodable"


@pytest.mark.parametrize(("row", "disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_name_in_other_unicode_form_is_located(tmp_path: Path, row: str, disk: str) -> None:
    folder, name = unicodedata.normalize(disk, "fotós"), unicodedata.normalize(disk, "café.png")  # type: ignore[arg-type]
    (tmp_path / folder).mkdir()
    (tmp_path / folder / name).touch()
    assert locate(tmp_path, unicodedata.normalize(row, "fotós/café.png")) == tmp_path / folder / name  # type: ignore[arg-type]


def test_exact_name_comes_before_other_form(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD")]  # type: ignore[arg-type]
    for name in names:
        (tmp_path / name).touch()
    assert [locate(tmp_path, name).name for name in names] == names


def test_two_names_of_one_text_are_refused(tmp_path: Path) -> None:
    # The row has one accent composed and one not; each file on disk has both in one form.
    for form in ("NFC", "NFD"):
        (tmp_path / unicodedata.normalize(form, "éé.png")).touch()  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="2 names"):
        locate(tmp_path, "\u00e9e\u0301.png")


def test_percent_signs_in_names_are_no_encoding(tmp_path: Path) -> None:
    (tmp_path / "a b.png").touch()
    assert not locate(tmp_path, "a%20b.png").exists()


@pytest.mark.parametrize(("path", "near"), [("Short/R.PNG", "short/r.png"), ("short\\r.png", "short/r.png"), ("short/x.png", None)])
def test_similar_name_is_offered(tmp_path: Path, path: str, near: str | None) -> None:
    (tmp_path / "short").mkdir()
    (tmp_path / "short/r.png").touch()
    assert similar(tmp_path, path) == near
