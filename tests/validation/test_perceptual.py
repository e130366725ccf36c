from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from components.preferences.colors import WHITE
from components.preferences.media import read_picture
from components.validation.perceptual import FINGERPRINT_BYTES, fingerprint, near_pictures


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(data.astronaut())


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def near(a: Image.Image, b: Image.Image) -> bool:
    return bool(near_pictures({"a": fingerprint(a)}, {"b": fingerprint(b)}))


def test_resized_compressed_and_cropped_copies_are_near(photo: Image.Image) -> None:
    assert near(photo, photo.resize((256, 256)))
    assert near(photo, photo.resize((1024, 1024)))
    assert near(photo, jpeg(photo, 40))
    for left in (0, 13, 25):
        assert near(photo, photo.crop((left, 25 - left, left + 486, 25 - left + 486)))


def test_other_photo_of_scene_is_not_near(photo: Image.Image) -> None:
    left, right = photo.crop((0, 0, 384, 384)), photo.crop((100, 60, 484, 444))
    assert not near(left, right)
    assert not near(photo, Image.fromarray(data.chelsea()))
    assert not near(photo, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def test_nearest_of_many_is_named(photo: Image.Image) -> None:
    noise = np.random.default_rng(0)
    others = {f"noise {n}": fingerprint(Image.fromarray(noise.integers(0, 255, (64, 64), dtype=np.uint8))) for n in range(200)}
    assert near_pictures({"copy": fingerprint(jpeg(photo, 60)), **others}, {"photo": fingerprint(photo)}) == {"copy": ["photo"]}
    assert near_pictures({}, others) == {}


def test_look_of_file_follows_its_orientation(photo: Image.Image, tmp_path) -> None:  # type: ignore[no-untyped-def] -- a path
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.rotate(90, expand=True).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    read = fingerprint(read_picture(tmp_path / "phone.jpg", WHITE))
    assert len(read) == FINGERPRINT_BYTES
    assert near_pictures({"phone": read}, {"photo": fingerprint(photo)})
